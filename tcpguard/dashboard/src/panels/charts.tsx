// Charts of the last fifteen minutes.

import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";

import { count, rate } from "../format";
import type { Samples } from "../live";
import type { Stats } from "../model";

interface Line {
  label: string;
  color: string; // a CSS variable
  dashed?: boolean;
}

const HEIGHT = 220;
// The x axis spans at least this, so that a chart is not a thin line at its edge when the daemon has just started.
const LEAST_SECONDS = 60;

export function RateChart({ samples }: { samples: Samples }) {
  const lines = [
    { label: "SYNs/s", color: "--syn" },
    { label: "completed/s", color: "--completed" },
    { label: "dropped/s", color: "--dropped" },
    { label: "challenged/s", color: "--challenged" },
  ];
  const data: uPlot.AlignedData = [samples.time, samples.syn, samples.completed, samples.dropped, samples.challenged];
  const last = `${rate(samples.syn.at(-1) ?? 0)} SYNs per second, ${rate(samples.completed.at(-1) ?? 0)} handshakes completed`;
  return <Chart title="SYNs and their outcome" lines={lines} data={data} description={last} />;
}

export function HalfOpenChart({ samples, thresholds }: { samples: Samples; thresholds: Stats["thresholds"] }) {
  const lines = [
    { label: "kernel", color: "--kernel" },
    { label: "datapath", color: "--datapath" },
    { label: "threshold", color: "--threshold", dashed: true },
  ];
  const limit = samples.time.map(() => thresholds.max_half_open);
  const data: uPlot.AlignedData = [samples.time, samples.kernel, samples.datapath, limit];
  const last = `${count(samples.kernel.at(-1) ?? 0)} half open in the kernel, threshold ${count(thresholds.max_half_open)}`;
  return <Chart title="Half-open handshakes" lines={lines} data={data} description={last} />;
}

interface ChartProps {
  title: string;
  lines: Line[];
  data: uPlot.AlignedData;
  description: string;
}

function Chart({ title, lines, data, description }: ChartProps) {
  const place = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot | null>(null);
  const dark = useDark();

  useEffect(() => {
    const element = place.current;
    if (!element) return;
    const plot = new uPlot(options(lines, element.clientWidth), data, element);
    chart.current = plot;
    const observer = new ResizeObserver(() => plot.setSize({ width: element.clientWidth, height: HEIGHT }));
    observer.observe(element);
    return () => {
      observer.disconnect();
      plot.destroy();
    };
  }, [dark]);
  useEffect(() => chart.current?.setData(data), [data]);

  return (
    <section class="panel chart">
      <h2>{title}</h2>
      <div ref={place} role="img" aria-label={`${title}: ${description}`} />
    </section>
  );
}

function options(lines: Line[], width: number): uPlot.Options {
  const style = getComputedStyle(document.documentElement);
  const color = (name: string) => style.getPropertyValue(name).trim();
  const axis = { stroke: color("--quiet"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false } };
  return {
    width,
    height: HEIGHT,
    cursor: { y: false },
    scales: {
      x: { time: true, range: (_, oldest, newest) => [Math.min(oldest, newest - LEAST_SECONDS), newest] },
      y: { range: (_, __, highest) => [0, Math.max(10, highest * 1.1)] },
    },
    axes: [
      { ...axis, values: (plot, ticks) => ticks.map((tick) => clockOf(tick, isShort(plot))) },
      { ...axis, size: 52, values: (_, ticks) => ticks.map((tick) => rate(tick)) },
    ],
    series: [
      { label: "time", value: (plot, time) => clockOf(time ?? last(plot, 0), true) },
      ...lines.map(({ label, color: name, dashed }) => ({
        label,
        stroke: color(name),
        width: 2,
        points: { show: false },
        ...(dashed && { dash: [6, 6] }),
        value: (plot: uPlot, value: number | null, series: number) => rate(value ?? last(plot, series)),
      })),
    ],
  };
}

// Whether the axis labels need seconds to be distinct.
function isShort(plot: uPlot): boolean {
  const { min = 0, max = 0 } = plot.scales.x ?? {};
  return (max ?? 0) - (min ?? 0) < 300;
}

// While the pointer is not over the chart, its legend shows the latest values.
function last(plot: uPlot, series: number): number {
  return plot.data[series]?.at(-1) ?? 0;
}

function clockOf(time: number, withSeconds = false): string {
  const options: Intl.DateTimeFormatOptions = { hour: "2-digit", minute: "2-digit", hour12: false };
  if (withSeconds) options.second = "2-digit";
  return new Date(time * 1000).toLocaleTimeString([], options);
}

// Whether the system prefers dark colours; charts are redrawn when this changes.
function useDark(): boolean {
  const query = window.matchMedia("(prefers-color-scheme: dark)");
  const [dark, setDark] = useState(query.matches);
  useEffect(() => {
    const change = () => setDark(query.matches);
    query.addEventListener("change", change);
    return () => query.removeEventListener("change", change);
  }, []);
  return dark;
}
