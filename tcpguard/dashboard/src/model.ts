// What the daemon answers, as far as this page shows it. /openapi.json describes all of it.

export type State = "calm" | "attack" | "recovering";

export interface Stats {
  version: string;
  uptime_seconds: number;
  time: string;
  state: State;
  state_since: string;
  attack: { since: string; kind: string; evidence: string[] } | null;
  syn_attack_protect: number;
  interfaces: { name: string; xdp_mode: string; reason?: string }[];
  totals: Record<string, number>;
  drops: Record<string, number>;
  would_drop: Record<string, number>;
  rates: {
    packets_per_second: number;
    syn_per_second: number;
    completed_per_second: number;
    dropped_per_second: number;
    challenged_per_second: number;
    distinct_sources_per_second: number;
  };
  half_open: { kernel: number; kernel_retried: number; datapath: number };
  refused: number;
  thresholds: { max_half_open: number; max_half_open_retried: number; max_ports_exhausted: number };
  ports: Port[];
  protected: Protected[];
  sources: Source[];
  prefixes: { prefix: string; syn: number; ended: number; last_seen: string }[];
  tracking: { sources: number; max_sources: number; events_lost: number };
  features: Record<string, { available: boolean; reason?: string }>;
  measures: {
    signatures: string[];
    kernel_settings: { name: string; value: string; original: string }[];
    blocks: number;
    advice: string[];
    challenge: {
      ports: { port: number; method: string; seconds: number; guarded: boolean }[];
      left_alone: { port: number; reason: string }[];
      no_cookies: string | null;
      cookies_returned: number;
    };
  };
  cost: {
    cpu_seconds: number;
    resident_bytes: number;
    last_tick_seconds: number;
    longest_tick_delay_seconds: number;
    programs: { name: string; runs: number; run_seconds: number }[] | null;
  };
}

export interface Protected {
  name: string;
  networks: string[];
  state: State;
  half_open: number;
  max_half_open: number;
  return_path: string;
  method?: string;
  ports: { port: number; syn: number; half_open: number; completed: number; retried: number; challenged: boolean }[];
}

export interface Port {
  port: number;
  syn: number;
  half_open: number;
  retried: number;
  challenged: number;
  completed: number;
  redirected: boolean;
  backlog: number;
  accept_queue: number;
  slow_application: boolean;
}

export interface Source {
  source: string;
  syn: number;
  completed: number;
  half_open: number;
  retried: number;
  resets: number;
  dropped: number;
  challenged: number;
  proven: boolean;
  blocked_until: string | null;
  first_seen: string;
  last_seen: string;
}

export interface HostEvent {
  id: number;
  time: string;
  kind: string;
  message: string;
  watch_only?: boolean;
}

export interface History {
  time: string[];
  syn_per_second: number[];
  completed_per_second: number[];
  dropped_per_second: number[];
  challenged_per_second: number[];
  half_open_kernel: number[];
  half_open_datapath: number[];
}

// What is known of one source: GET /sources/ADDRESS.
export interface Why {
  address: string;
  summary: string[];
  how_to_let_in: string[];
}
