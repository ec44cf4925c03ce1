// The ports and how full their backlogs are.

import { count } from "../format";
import type { Port, Stats } from "../model";

const SHOWN = 12;

export function Ports({ stats }: { stats: Stats }) {
  const challenged = new Map(stats.measures.challenge.ports.map((port) => [port.port, port.method]));
  const open = stats.ports.filter((port) => port.backlog > 0);
  const closed = stats.ports.filter((port) => port.backlog === 0);
  const rows = [...open, ...closed].sort((one, other) => other.half_open - one.half_open || other.syn - one.syn).slice(0, SHOWN);
  return (
    <section class="panel">
      <h2>Ports</h2>
      <div class="scroll">
        <table>
          <caption class="hidden">Ports, busiest first</caption>
          <thead>
            <tr>
              <th scope="col">Port</th>
              <th scope="col">Backlog usage</th>
              <th scope="col" class="number">
                SYNs
              </th>
              <th scope="col" class="number">
                Completed
              </th>
              <th scope="col" class="number">
                Retried
              </th>
              <th scope="col">Notes</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((port) => (
              <tr key={port.port}>
                <th scope="row">{port.port}</th>
                <td>
                  <Backlog port={port} />
                </td>
                <td class="number">{count(port.syn)}</td>
                <td class="number">{count(port.completed)}</td>
                <td class="number">{count(port.retried)}</td>
                <td>{remarks(port, challenged.get(port.port))}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function Backlog({ port }: { port: Port }) {
  if (port.backlog === 0) return <span class="quiet">{port.redirected ? "redirected" : "no listener"}</span>;
  // The backlog bounds each queue separately (inet_csk_reqsk_queue_is_full, sk_acceptq_is_full).
  const used = Math.max(port.half_open, port.accept_queue);
  return (
    <span class="backlog">
      <meter min={0} max={port.backlog} high={port.backlog * 0.8} optimum={0} value={used} aria-label={`Backlog of port ${port.port}`} />
      {count(port.half_open)} half open, {count(port.accept_queue)} to accept, limit {count(port.backlog)}
    </span>
  );
}

function remarks(port: Port, method: string | undefined): string {
  const list: string[] = [];
  if (method) list.push(`challenged by ${method}`);
  if (port.slow_application) list.push("application accepts too slowly");
  return list.join("; ");
}
