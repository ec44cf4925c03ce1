// Events, latest first.

import { clock } from "../format";
import type { HostEvent } from "../model";

const SHOWN = 50;

export function Events({ events }: { events: HostEvent[] }) {
  return (
    <section class="panel">
      <h2>Events</h2>
      <ol id="events" class="events" tabIndex={0} aria-label="Events, latest first">
        {events.slice(0, SHOWN).map((event) => (
          <li key={event.id} class={event.kind}>
            <time dateTime={event.time}>{clock(event.time)}</time>
            <span class="kind">{event.kind.replaceAll("_", " ")}</span>
            <span>
              {event.watch_only && "would be: "}
              {event.message}
            </span>
          </li>
        ))}
        {events.length === 0 && <li class="quiet">No events yet.</li>}
      </ol>
    </section>
  );
}
