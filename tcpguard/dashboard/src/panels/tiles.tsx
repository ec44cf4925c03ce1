// The most important numbers.

import { count, rate } from "../format";
import type { Stats } from "../model";

export function Tiles({ stats }: { stats: Stats }) {
  const { state, rates, half_open, thresholds, totals } = stats;
  const most = Math.max(half_open.kernel, half_open.datapath);
  return (
    <section class="tiles" aria-label="Now">
      <Tile id="syn" label="SYNs" value={rate(rates.syn_per_second)} unit="/s" note={`${count(totals.syn ?? 0)} in total`} />
      <Tile
        id="completed"
        label="Completed"
        value={rate(rates.completed_per_second)}
        unit="/s"
        note={`${count(totals.completed ?? 0)} handshakes in total`}
      />
      <Tile id="dropped" label="Dropped" value={rate(rates.dropped_per_second)} unit="/s" note={`${count(totals.dropped ?? 0)} in total`} />
      <Tile
        id="challenged"
        label="Challenged"
        value={rate(rates.challenged_per_second)}
        unit="/s"
        note={`${count(totals.challenged ?? 0)} in total`}
      />
      <Tile
        id="half-open"
        label="Half open"
        value={most < 100_000 ? count(most) : rate(most)}
        unit={`of ${count(thresholds.max_half_open)}`}
        note={`kernel ${count(half_open.kernel)} (${count(half_open.kernel_retried)} retried), datapath ${count(half_open.datapath)}`}
        over={state === "attack" && most > thresholds.max_half_open}
      />
      <Tile
        id="distinct"
        label="Sources"
        value={rate(rates.distinct_sources_per_second)}
        unit="/s"
        note="distinct, without blocked ones"
      />
    </section>
  );
}

interface TileProps {
  id: string;
  label: string;
  value: string;
  unit: string;
  note: string;
  over?: boolean;
}

function Tile({ id, label, value, unit, note, over }: TileProps) {
  return (
    <div class={`tile ${id}${over ? " over" : ""}`}>
      <h2>{label}</h2>
      <p class="value">
        <span data-number={id}>{value}</span> <span class="unit">{unit}</span>
      </p>
      <p class="quiet">{note}</p>
    </div>
  );
}
