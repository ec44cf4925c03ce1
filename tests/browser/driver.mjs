// Drives Chromium for the lab: reads one command per line and writes one result per line, both JSON.

import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const PATIENCE_MS = 15_000;
const POLL_MS = 20;

const browser = await chromium.launch({ executablePath: process.argv[2], args: ["--no-sandbox"] });
const page = await browser.newPage();
page.setDefaultTimeout(PATIENCE_MS);

// Problems that the page reported, and requests to other hosts; a page should cause neither.
const complaints = [];
const outside = [];
let home = "";
page.on("console", (message) => {
  if (["error", "warning"].includes(message.type())) complaints.push(message.text());
});
page.on("pageerror", (error) => complaints.push(String(error)));
page.on("request", (request) => {
  const url = request.url();
  if (!url.startsWith(home) && !url.startsWith("data:")) outside.push(url);
});

const orders = {
  async open({ url }) {
    home = new URL(url).origin;
    const response = await page.goto(url, { waitUntil: "load" });
    return response.status();
  },
  // After two animation frames the page has noticed the new size and redrawn itself.
  async size({ width, height }) {
    await page.setViewportSize({ width, height });
    await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
    return null;
  },
  colors: ({ scheme }) => page.emulateMedia({ colorScheme: scheme }),
  text: ({ of }) => page.innerText(of),
  texts: ({ of }) => page.locator(of).allInnerTexts(),
  type: ({ into, text }) => page.fill(into, text),
  press: ({ key }) => page.keyboard.press(key),
  // Returns the milliseconds until the expression is true in the page. (Playwright's `waitForFunction` needs `eval`.)
  async wait({ until }) {
    const start = performance.now();
    while (!(await page.evaluate(until))) {
      if (performance.now() - start > PATIENCE_MS) throw new Error(`not true within ${PATIENCE_MS} ms`);
      await new Promise((resume) => setTimeout(resume, POLL_MS));
    }
    return Math.round(performance.now() - start);
  },
  evaluate: ({ script }) => page.evaluate(script),
  screenshot: ({ path }) => page.screenshot({ path, fullPage: true }).then(() => null),
  problems: () => ({ complaints: complaints.splice(0), outside: outside.splice(0) }),
};

for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  let answer;
  try {
    answer = { value: (await orders[order.do](order)) ?? null };
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
