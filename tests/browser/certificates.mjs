// A certificate of the device in a headless Chromium, which has it, or has it not, in the NSS database of its HOME. Called by
// `tests/e2e/certificates/browser.rs`.
import { audit, base, end, launch, problems, shot, told } from './common.mjs';

const browser = await launch('--ignore-certificate-errors');
const seen = {};
const context = await browser.newContext({ bypassCSP: true, viewport: { width: 1100, height: 900 } });
const page = await context.newPage();
page.on('console', (message) => {
  if (!/status of 40[1-3]/.test(message.text())) problems.push(`console: ${message.text()}`);
});

try {
  await page.goto(base);
  seen.before = await page.textContent('h1');
  await audit(page, 'sign-in');
  await shot(page, `certificate-${told.shot}-before`);
  await Promise.all([page.waitForNavigation(), page.click(`a[href="https://${told.name}:8443/"]`)]);
  seen.at = page.url();
  seen.after = await page.textContent('h1');
  seen.main = await page.locator('main').innerText();
  await audit(page, 'after');
  await shot(page, `certificate-${told.shot}-after`);
} catch (error) {
  problems.push(`${error.stack}`, page.url());
} finally {
  await end(browser, seen);
}
