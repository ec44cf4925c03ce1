// Are we under attack, of what kind, and what is being done?

import { between, clock, count, duration } from "../format";
import type { Stats } from "../model";

const KINDS: Record<string, string> = {
  spoofed: "SYN flood from forged sources",
  concentrated: "SYN flood from a few sources",
  prefix: "SYN flood from a few networks",
  scan: "port scan",
  mixed: "SYN flood of more than one kind",
};

export function Banner({ stats }: { stats: Stats }) {
  const { state, state_since, attack, time } = stats;
  const since = attack ? attack.since : state_since;
  return (
    <section id="banner" class={`banner ${state}`} aria-label="State">
      <p class="hidden" role="status">
        {attack ? `${state}, ${KINDS[attack.kind] ?? attack.kind}` : state}
      </p>
      <p class="state">
        <strong id="state">{state}</strong>
        {attack && <span id="kind">{attack.kind}</span>}
        <span class="since">
          for {between(since, time)} <span class="quiet">since {clock(since)}</span>
        </span>
      </p>
      {attack ? (
        <div class="columns">
          <div>
            <h2>{KINDS[attack.kind] ?? attack.kind}</h2>
            <ul id="evidence">
              {attack.evidence.map((evidence) => (
                <li key={evidence}>{evidence}</li>
              ))}
            </ul>
          </div>
          <div>
            <h2>What is done</h2>
            <ul id="measures">
              {measures(stats).map((measure) => (
                <li key={measure}>{measure}</li>
              ))}
            </ul>
          </div>
        </div>
      ) : (
        <p>{calm(stats)}</p>
      )}
    </section>
  );
}

function calm({ half_open, thresholds, syn_attack_protect }: Stats): string {
  const most = Math.max(half_open.kernel, half_open.datapath);
  const level = ["It only watches.", "In an attack it changes kernel settings, and drops nothing.", ""][syn_attack_protect];
  if (most > thresholds.max_half_open) {
    return `What the last attack left half open (${count(most)}) is no reason for another. ${level}`;
  }
  return `No threshold is exceeded: ${count(most)} handshakes are half open, and ${count(thresholds.max_half_open)} may be. ${level}`;
}

function measures({ measures, rates, syn_attack_protect }: Stats): string[] {
  const { challenge, blocks, kernel_settings } = measures;
  const list: string[] = [];
  if (syn_attack_protect === 0) list.push("Nothing: syn_attack_protect is 0, so that it only watches.");
  for (const { port, method, seconds } of challenge.ports) {
    const how = method === "cookie" ? "SYNs of strangers are answered with cookies" : "a first SYN is dropped, so that it must be sent again";
    list.push(`Port ${port}: ${how}, for ${duration(seconds)} now.`);
  }
  if (blocks > 0) list.push(`${count(blocks)} ${blocks === 1 ? "source or network is" : "sources and networks are"} blocked.`);
  if (rates.dropped_per_second >= 1) list.push(`${count(rates.dropped_per_second)} frames a second are dropped.`);
  for (const { name, value, original } of kernel_settings) list.push(`${name} is ${value} (it was ${original}, and will be).`);
  for (const { port, reason } of challenge.left_alone) list.push(`Port ${port} is not challenged: ${reason}.`);
  list.push(...measures.advice);
  return list.length > 0 ? list : ["Nothing yet."];
}
