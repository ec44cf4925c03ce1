// The state, the kind of attack, the evidence and the measures.

import { between, clock, count, duration } from "../format";
import type { Stats } from "../model";

const KINDS: Record<string, string> = {
  spoofed: "SYN flood from forged sources",
  concentrated: "SYN flood from a few sources",
  prefix: "SYN flood from a few networks",
  scan: "port scan",
  stray: "segments without a connection",
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
            <h2>Measures</h2>
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
  const level = ["Watch only: no measures are taken.", "Under attack, kernel settings are changed, but nothing is dropped.", ""][syn_attack_protect];
  if (most > thresholds.max_half_open) {
    return `${count(most)} handshakes are still half open from the last attack; they do not start a new one. ${level}`;
  }
  return `No threshold is exceeded: ${count(most)} handshakes are half open (threshold ${count(thresholds.max_half_open)}). ${level}`;
}

function measures({ measures, rates, syn_attack_protect }: Stats): string[] {
  const { challenge, blocks, kernel_settings, signatures } = measures;
  const list: string[] = [];
  if (syn_attack_protect === 0) list.push("None: syn_attack_protect is 0 (watch only).");
  for (const { port, method, seconds } of challenge.ports) {
    const how = method === "cookie" ? "SYNs of unproven sources are answered with cookies" : "the first SYN of an unproven source is dropped";
    list.push(`Port ${port}: ${how} (for ${duration(seconds)}).`);
  }
  if (blocks > 0) list.push(`${count(blocks)} ${blocks === 1 ? "source or network is" : "sources and networks are"} blocked.`);
  if (rates.dropped_per_second >= 1) list.push(`${count(rates.dropped_per_second)} frames per second are dropped.`);
  for (const signature of signatures) list.push(`SYNs that look like the flood are dropped: ${signature}.`);
  for (const { name, value, original } of kernel_settings) list.push(`${name} is temporarily ${value} (normally ${original}).`);
  for (const { port, reason } of challenge.left_alone) list.push(`Port ${port} is not challenged: ${reason}.`);
  list.push(...measures.advice);
  return list.length > 0 ? list : ["None yet."];
}
