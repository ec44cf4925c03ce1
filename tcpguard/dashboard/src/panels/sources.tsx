// The top sources, and any other source by its address.

import { useEffect, useState } from "preact/hooks";

import { between, clock, count } from "../format";
import { get } from "../live";
import type { Source, Stats, Why } from "../model";

type Sort = "syn" | "half_open" | "dropped";

const SORTS: { sort: Sort; label: string }[] = [
  { sort: "syn", label: "SYNs" },
  { sort: "half_open", label: "Half open" },
  { sort: "dropped", label: "Dropped" },
];
const SHOWN = 20;
const ASK_MS = 1000;
// The daemon has this many at hand; for more it would read the whole source table.
const SEARCHED = 256;

export function Sources({ stats }: { stats: Stats }) {
  const [sort, setSort] = useState<Sort>("syn");
  const [typed, setTyped] = useState("");
  const [found, setFound] = useState<Source[] | null>(null);
  const [why, setWhy] = useState<Why | null>(null);
  const wanted = typed.trim().toLowerCase();
  const isAddress = /^[0-9.]{7,}$|^[0-9a-f:.]*:[0-9a-f:.]*$/.test(wanted);

  // Requests run one after the other, so that none are lost on a slow connection.
  useEffect(() => {
    let isCurrent = true;
    let timer = 0;
    const ask = async () => {
      const [sources, known] = await Promise.all([
        wanted !== "" || sort !== "syn" ? get<Source[]>(`/sources?sort=${sort}&limit=${SEARCHED}`).catch(() => null) : null,
        isAddress ? get<Why>(`/sources/${encodeURIComponent(wanted)}`).catch(() => null) : null,
      ]);
      if (!isCurrent) return;
      setFound(sources);
      setWhy(known);
      timer = setTimeout(ask, ASK_MS);
    };
    void ask();
    return () => {
      isCurrent = false;
      clearTimeout(timer);
    };
  }, [wanted, sort]);

  const rows = [...(found ?? stats.sources)]
    .filter(({ source }) => source.includes(wanted))
    .sort((one, other) => other[sort] - one[sort])
    .slice(0, SHOWN);
  return (
    <section class="panel" id="sources" tabIndex={-1}>
      <div class="title">
        <h2>Sources</h2>
        <label>
          Find <input id="find" type="search" placeholder="address or part of one" value={typed} onInput={(input) => setTyped(input.currentTarget.value)} />
        </label>
      </div>
      {why && <WhyCard why={why} />}
      <div class="scroll">
        <table>
          <caption class="hidden">Sources, by {SORTS.find((one) => one.sort === sort)?.label}</caption>
          <thead>
            <tr>
              <th scope="col">Source</th>
              <SortHeading of="syn" sort={sort} choose={setSort} />
              <th scope="col" class="number">
                Completed
              </th>
              <SortHeading of="half_open" sort={sort} choose={setSort} />
              <SortHeading of="dropped" sort={sort} choose={setSort} />
              <th scope="col">Status</th>
              <th scope="col">Last seen</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((source) => (
              <Row key={source.source} source={source} now={stats.time} />
            ))}
            {rows.length === 0 && (
              <tr>
                <td colSpan={7} class="quiet">
                  {wanted === "" ? "No source has sent a SYN yet." : "None of the busiest sources matches. Enter a complete address to look it up."}
                </td>
              </tr>
            )}
          </tbody>
        </table>
      </div>
      {stats.prefixes.length > 0 && (
        <p class="quiet">
          Busiest prefixes:{" "}
          {stats.prefixes
            .slice(0, 5)
            .map(({ prefix, syn }) => `${prefix} (${count(syn)} SYNs)`)
            .join(", ")}
        </p>
      )}
    </section>
  );
}

function SortHeading({ of, sort, choose }: { of: Sort; sort: Sort; choose: (sort: Sort) => void }) {
  const label = SORTS.find((one) => one.sort === of)?.label;
  return (
    <th scope="col" class="number" aria-sort={sort === of ? "descending" : "none"}>
      <button type="button" onClick={() => choose(of)}>
        {label}
        <span aria-hidden="true">{sort === of ? " ▾" : ""}</span>
      </button>
    </th>
  );
}

function Row({ source, now }: { source: Source; now: string }) {
  return (
    <tr class={source.blocked_until ? "blocked" : ""}>
      <th scope="row">{source.source}</th>
      <td class="number">{count(source.syn)}</td>
      <td class="number">{count(source.completed)}</td>
      <td class="number">{count(source.half_open)}</td>
      <td class="number">{count(source.dropped)}</td>
      <td>{done(source)}</td>
      <td>{between(source.last_seen, now)} ago</td>
    </tr>
  );
}

function done({ blocked_until, dropped, challenged, proven }: Source): string {
  if (blocked_until) return `blocked until ${clock(blocked_until)}`;
  if (proven) return "proven, passes";
  if (dropped > 0) return "some SYNs dropped";
  return challenged > 0 ? "challenged" : "passes";
}

function WhyCard({ why }: { why: Why }) {
  return (
    <div class="why">
      <h3>{why.address}</h3>
      <ul>
        {why.summary.map((line) => (
          <li key={line}>{line}</li>
        ))}
      </ul>
      {why.how_to_let_in.map((command) => (
        <p key={command}>
          To let it in: <code>{command}</code>
        </p>
      ))}
    </div>
  );
}
