import { duration } from "../format";
import type { Connection } from "../live";
import type { Stats } from "../model";

const WORDS: Record<Connection, string> = {
  connecting: "connecting …",
  live: "live",
  lost: "connection lost, retrying …",
};

export function Header({ connection, stats }: { connection: Connection; stats: Stats | null }) {
  return (
    <header>
      <a class="skip" href="#sources">
        Skip to the sources
      </a>
      <h1>tcpguard</h1>
      {stats && (
        <span class="quiet">
          {stats.version}, up {duration(stats.uptime_seconds)}
        </span>
      )}
      <span id="connection" class={`connection ${connection}`} role="status">
        {WORDS[connection]}
      </span>
    </header>
  );
}
