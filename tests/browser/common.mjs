// What the scripts here share: a headless Chromium inside a host's network namespace, an auditor, and alice's app. The test
// starts a script with one argument of JSON, gives it a code for each line `code` that it says, and takes its last line.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';

export const told = JSON.parse(process.argv[2]);
const require = createRequire(`${told.modules}/`);
const { chromium } = require('playwright-core');
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
export const base = `https://${told.name}/`;
export const problems = [];
const lines = createInterface({ input: process.stdin });
const answers = lines[Symbol.asyncIterator]();

export const launch = (...more) => chromium.launch({
  executablePath: told.chromium,
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
    `--host-resolver-rules=MAP ${told.name} ${told.address}, MAP * ~NOTFOUND, EXCLUDE ${told.address}`, ...more],
});

export async function shot(page, name) {
  await page.screenshot({ path: `${told.shots}/${name}.png`, fullPage: true });
}

// What an auditor of accessibility finds, and whether the page is wider than its window.
export async function audit(page, name) {
  await page.evaluate(axe);
  const found = await page.evaluate(() => window.axe.run());
  for (const violation of found.violations) {
    problems.push(`${name}: ${violation.id}: ${violation.help}: ${violation.nodes.map((node) => node.html).join(' ')}`);
  }
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  if (wide > 0) problems.push(`${name}: ${wide} pixels wider than the window`);
}

// A code of alice's app. It is good for some seconds only, so it is asked for when it is typed.
export async function code() {
  console.log('code');
  return (await answers.next()).value;
}

export async function end(browser, seen) {
  await browser.close();
  lines.close();
  console.log(JSON.stringify({ problems, seen }));
}
