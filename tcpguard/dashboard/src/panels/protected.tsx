// The networks that this host protects as a gateway, and their ports.

import { count } from "../format";
import type { Protected as Section, Stats } from "../model";

export function Protected({ stats }: { stats: Stats }) {
  if (stats.protected.length === 0) return null;
  return (
    <section class="panel">
      <h2>Protected networks</h2>
      <div class="scroll">
        <table>
          <caption class="hidden">Protected networks, as configured</caption>
          <thead>
            <tr>
              <th scope="col">Name</th>
              <th scope="col">State</th>
              <th scope="col">Half open</th>
              <th scope="col">Ports</th>
              <th scope="col" class="number">
                SYNs
              </th>
              <th scope="col" class="number">
                Completed
              </th>
              <th scope="col">Notes</th>
            </tr>
          </thead>
          <tbody>
            {stats.protected.map((section) => (
              <tr key={section.name}>
                <th scope="row" title={section.networks.join(", ")}>
                  {section.name}
                </th>
                <td>{section.state}</td>
                <td>
                  {count(section.half_open)}, limit {count(section.max_half_open)}
                </td>
                <td>{section.ports.map((port) => port.port).join(", ")}</td>
                <td class="number">{count(sum(section, "syn"))}</td>
                <td class="number">{count(sum(section, "completed"))}</td>
                <td>{remarks(section)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function sum(section: Section, field: "syn" | "completed"): number {
  return section.ports.reduce((sum, port) => sum + port[field], 0);
}

function remarks(section: Section): string {
  const list: string[] = [];
  const challenged = section.ports.filter((port) => port.challenged).map((port) => port.port);
  if (section.method) list.push(`port ${challenged.join(", ")} challenged by ${section.method}`);
  if (section.return_path === "elsewhere") list.push("SYN-ACKs take another way: nobody is blocked");
  return list.join("; ");
}
