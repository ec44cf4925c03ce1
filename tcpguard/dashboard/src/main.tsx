// The page, from top to bottom: state and measures, rates, sources, ports, events, host.

import "uplot/dist/uPlot.min.css";
import "./style.css";

import { render } from "preact";
import { useEffect, useState } from "preact/hooks";

import { EMPTY, follow } from "./live";
import { Banner } from "./panels/banner";
import { HalfOpenChart, RateChart } from "./panels/charts";
import { Events } from "./panels/events";
import { Header } from "./panels/header";
import { Ports } from "./panels/ports";
import { Protected } from "./panels/protected";
import { Sources } from "./panels/sources";
import { Host } from "./panels/host";
import { Tiles } from "./panels/tiles";

function Page() {
  const [view, setView] = useState(EMPTY);
  useEffect(() => follow(setView), []);
  const { stats, samples, events, connection } = view;
  useEffect(() => {
    document.title = !stats ? "tcpguard" : stats.state === "calm" ? "tcpguard: calm" : `tcpguard: ${stats.state}!`;
  }, [stats?.state]);

  return (
    <>
      <Header connection={connection} stats={stats} />
      <main class={connection === "lost" ? "stale" : ""}>
        {stats === null ? (
          <p class="plain" role="status">
            {connection === "lost" ? "The daemon does not respond. Retrying every second." : "Connecting to the daemon …"}
          </p>
        ) : (
          <>
            <Banner stats={stats} />
            <Tiles stats={stats} />
            <div class="pair">
              <RateChart samples={samples} />
              <HalfOpenChart samples={samples} thresholds={stats.thresholds} />
            </div>
            <Sources stats={stats} />
            <Protected stats={stats} />
            <Ports stats={stats} />
            <Events events={events} />
            <Host stats={stats} />
          </>
        )}
      </main>
    </>
  );
}

const root = document.getElementById("app");
if (root) render(<Page />, root);
