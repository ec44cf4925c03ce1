// The connection to the daemon: what there was comes by requests, what is new by server-sent events.

import type { HostEvent, History, Stats } from "./model";

export type Connection = "connecting" | "live" | "lost";

export interface View {
  connection: Connection;
  stats: Stats | null;
  samples: Samples;
  events: HostEvent[];
}

// Columns, as the chart library wants them; times are seconds since 1970.
export interface Samples {
  time: number[];
  syn: number[];
  completed: number[];
  dropped: number[];
  challenged: number[];
  kernel: number[];
  datapath: number[];
}

const MOST_SAMPLES = 900;
const MOST_EVENTS = 200;
const RETRY_MS = 1000;
// The daemon says how things stand once a second.
const PATIENCE_MS = 5000;

export const EMPTY: View = {
  connection: "connecting",
  stats: null,
  samples: { time: [], syn: [], completed: [], dropped: [], challenged: [], kernel: [], datapath: [] },
  events: [],
};

export async function get<T>(path: string): Promise<T> {
  const response = await fetch(path);
  const body = await response.json();
  if (!response.ok) throw new Error(body.error ?? response.statusText);
  return body;
}

// Follows the daemon, also over its restarts, and hands on each new view.
export function follow(show: (view: View) => void): () => void {
  let view = EMPTY;
  let source: EventSource | null = null;
  let timer = 0;
  const change = (part: Partial<View>) => show((view = { ...view, ...part }));

  // The browser gives up where the daemon is up again but not ready, and notices a dead tunnel late: this does not.
  const lose = () => {
    source?.close();
    source = null;
    change({ connection: "lost" });
    wait(connect, RETRY_MS);
  };
  const wait = (then: () => void, milliseconds: number) => {
    clearTimeout(timer);
    timer = setTimeout(then, milliseconds);
  };
  const connect = () => {
    const connection = new EventSource("/live");
    source = connection;
    wait(lose, PATIENCE_MS);
    connection.addEventListener("open", () => {
      catchUp().then(
        // What came meanwhile stays; what came of an earlier connection is not waited for any more.
        ({ samples, events }) => source === connection && change({ samples, events: merged(view.events, events) }),
        () => source === connection && lose(),
      );
    });
    connection.addEventListener("stats", (message) => {
      const stats: Stats = JSON.parse(message.data);
      wait(lose, PATIENCE_MS);
      change({ connection: "live", stats, samples: withSample(view.samples, stats) });
    });
    connection.addEventListener("event", (message) => change({ events: merged(view.events, [JSON.parse(message.data)]) }));
    connection.addEventListener("error", () => source === connection && lose());
  };
  connect();
  return () => {
    source?.close();
    clearTimeout(timer);
  };
}

async function catchUp(): Promise<{ samples: Samples; events: HostEvent[] }> {
  const [history, events] = await Promise.all([get<History>("/history"), get<HostEvent[]>(`/events?limit=${MOST_EVENTS}`)]);
  return { samples: samplesOf(history), events };
}

// Each event once, the latest first.
function merged(some: HostEvent[], others: HostEvent[]): HostEvent[] {
  const events = new Map([...some, ...others].map((event) => [event.id, event]));
  return [...events.values()].sort((one, other) => other.id - one.id).slice(0, MOST_EVENTS);
}

function samplesOf(history: History): Samples {
  return {
    time: history.time.map(seconds),
    syn: history.syn_per_second,
    completed: history.completed_per_second,
    dropped: history.dropped_per_second,
    challenged: history.challenged_per_second,
    kernel: history.half_open_kernel,
    datapath: history.half_open_datapath,
  };
}

// With one more, where a second has passed since the last.
function withSample(samples: Samples, { time, rates, half_open }: Stats): Samples {
  const now = seconds(time);
  const last = samples.time.at(-1);
  if (last !== undefined && now - last < 0.9) return samples;
  const add = (list: number[], value: number) => [...list, value].slice(-MOST_SAMPLES);
  return {
    time: add(samples.time, now),
    syn: add(samples.syn, rates.syn_per_second),
    completed: add(samples.completed, rates.completed_per_second),
    dropped: add(samples.dropped, rates.dropped_per_second),
    challenged: add(samples.challenged, rates.challenged_per_second),
    kernel: add(samples.kernel, half_open.kernel),
    datapath: add(samples.datapath, half_open.datapath),
  };
}

function seconds(time: string): number {
  return Date.parse(time) / 1000;
}
