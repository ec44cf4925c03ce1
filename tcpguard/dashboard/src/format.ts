// Numbers and times, as they are read.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (value: number) => whole.format(value);

// 12, 950, 1.2K, 3.4M: for rates, whose last digits mean nothing.
export const rate = (value: number) => (value < 10 && value > 0 ? value.toFixed(1) : short.format(value));

export function duration(seconds: number): string {
  if (seconds < 120) return `${Math.max(0, Math.floor(seconds))} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 120) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export const between = (since: string, until: string) => duration((Date.parse(until) - Date.parse(since)) / 1000);

// The time of day here; with the date, where that is not today's.
export function clock(time: string): string {
  const date = new Date(time);
  const isToday = date.toDateString() === new Date().toDateString();
  const clock = date.toLocaleTimeString([], { hour12: false });
  return isToday ? clock : `${date.toLocaleDateString("sv")} ${clock}`;
}

export function bytes(value: number): string {
  return `${(value / 1024 / 1024).toFixed(1)} MiB`;
}
