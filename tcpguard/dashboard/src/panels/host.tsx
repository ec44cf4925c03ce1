// Guarded interfaces, missing kernel features, and the resources tcpguard uses.

import { bytes, count } from "../format";
import type { Stats } from "../model";

export function Host({ stats }: { stats: Stats }) {
  const { interfaces, features, cost, tracking, uptime_seconds } = stats;
  const missing = Object.entries(features).filter(([, feature]) => !feature.available);
  const share = uptime_seconds > 0 ? (100 * cost.cpu_seconds) / uptime_seconds : 0;
  return (
    <section class="panel">
      <h2>Interfaces and resource usage</h2>
      <dl class="facts">
        {interfaces.map(({ name, xdp_mode, reason }) => (
          <Fact key={name} name={name} value={`${xdp_mode === "tc" ? "traffic control" : `XDP ${xdp_mode}`}${reason ? `: ${reason}` : ""}`} bad={xdp_mode === "detached"} />
        ))}
        <Fact name="CPU" value={`${share.toFixed(2)} % of one core since startup`} />
        <Fact name="Memory" value={bytes(cost.resident_bytes)} />
        <Fact
          name="Ticks"
          value={`last took ${(1000 * cost.last_tick_seconds).toFixed(1)} ms, at most ${(1000 * cost.longest_tick_delay_seconds).toFixed(0)} ms late in the last minute`}
        />
        {cost.programs?.map(({ name, runs, run_seconds }) => (
          <Fact key={name} name={name} value={`${runs > 0 ? Math.round((1e9 * run_seconds) / runs) : 0} ns per run, ${count(runs)} runs`} />
        ))}
        <Fact name="Source table" value={`${count(tracking.sources)} of ${count(tracking.max_sources)} entries`} />
        {missing.map(([name, feature]) => (
          <Fact key={name} name={`No ${name.replaceAll("_", " ")}`} value={feature.reason ?? ""} bad />
        ))}
      </dl>
    </section>
  );
}

function Fact({ name, value, bad }: { name: string; value: string; bad?: boolean }) {
  return (
    <div class={bad ? "bad" : ""}>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}
