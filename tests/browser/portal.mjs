// Drives the portal in a headless Chromium, as people do: without JavaScript, by keyboard, on a phone. Called by
// `tests/e2e/portal/browser.rs`.
import { audit, base, code, end, launch, problems, shot, told } from './common.mjs';

const browser = await launch();
const seen = {};

async function open(options) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, bypassCSP: true, ...options });
  const page = await context.newPage();
  // A refusal is a page with its status, which the console notes.
  page.on('console', (message) => {
    if (!/status of 40[34]/.test(message.text())) problems.push(`console: ${message.text()}`);
  });
  page.on('pageerror', (error) => problems.push(`page: ${error.message}`));
  page.on('requestfailed', (request) => {
    const why = request.failure()?.errorText;
    // On a busy machine the browser itself gives a page's icon up when the page goes.
    if (why === 'net::ERR_ABORTED' && request.url().endsWith('/icon.svg')) return;
    problems.push(`failed: ${request.url()}: ${why}`);
  });
  return { context, page };
}

async function withoutJavaScript() {
  const { context, page } = await open({ javaScriptEnabled: false, viewport: { width: 1100, height: 900 } });
  await page.goto(base);
  await shot(page, 'sign-in');
  await page.fill('#user', told.user);
  await page.fill('#password', 'wrong');
  await page.click('button[type=submit]');
  seen.wrong = { title: await page.title(), alert: await page.textContent('[role=alert]') };
  await shot(page, 'sign-in-wrong');
  await page.fill('#user', told.user);
  await page.fill('#password', told.password);
  await page.click('button[type=submit]');
  seen.second = await page.textContent('h1');
  await shot(page, 'second-step');
  await page.fill('#code', await code());
  await page.click('button[type=submit]');
  seen.status = await page.textContent('h1');
  seen.reach = await page.locator('.reach li').allInnerTexts();
  seen.cookies = await context.cookies();
  await shot(page, 'status');
  await page.click('.actions a[href="/step-up"]');
  seen.stepUp = await page.textContent('h1');
  await shot(page, 'step-up');
  await page.goBack();
  await page.click('.actions button[type=submit]');
  seen.signedOut = await page.textContent('h1');
  await context.close();
}

// Everything by Tab and Enter, in the order in which it is read.
async function byKeyboard() {
  const { context, page } = await open({ viewport: { width: 1100, height: 900 } });
  await page.goto(base);
  await audit(page, 'sign-in');
  seen.focus = [];
  const focus = () => page.evaluate(() => {
    const at = document.activeElement;
    return at.id || at.className || at.tagName;
  });
  for (const typed of [null, null, told.user, told.password, null]) {
    await page.keyboard.press('Tab');
    seen.focus.push(await focus());
    if (typed) await page.keyboard.type(typed);
  }
  seen.outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  await Promise.all([page.waitForNavigation(), page.keyboard.press('Enter')]);
  await audit(page, 'second-step');
  seen.focusOfCode = await focus();
  await page.keyboard.type(await code());
  await Promise.all([page.waitForNavigation(), page.keyboard.press('Enter')]);
  seen.byKeyboard = await page.textContent('h1');
  await audit(page, 'status');
  await page.goto(`${base}step-up`);
  await audit(page, 'step-up');
  await page.goto(`${base}nothing`);
  await audit(page, 'trouble');
  await shot(page, 'trouble');
  seen.state = await context.storageState();
  await context.close();
}

async function onAPhone() {
  for (const colorScheme of ['light', 'dark']) {
    const { context, page } = await open({
      viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true, colorScheme,
      storageState: seen.state,
    });
    await page.goto(base);
    seen[`phone-${colorScheme}`] = await page.textContent('h1');
    await audit(page, `phone-${colorScheme}`);
    await shot(page, `phone-status-${colorScheme}`);
    await page.goto(`${base}step-up`);
    await audit(page, `phone-step-up-${colorScheme}`);
    await shot(page, `phone-step-up-${colorScheme}`);
    await context.clearCookies();
    await page.goto(base);
    await audit(page, `phone-sign-in-${colorScheme}`);
    await shot(page, `phone-sign-in-${colorScheme}`);
    await context.close();
  }
}

try {
  await withoutJavaScript();
  await byKeyboard();
  await onAPhone();
  delete seen.state;
} catch (error) {
  problems.push(`${error.stack}`);
} finally {
  await end(browser, seen);
}
