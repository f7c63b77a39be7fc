// Passkeys in a headless Chromium with a virtual authenticator (WebDriver's of Web Authentication, over CDP). Called by
// `tests/e2e/portal/passkeys_browser.rs`.
import { audit, base, code, end, launch, problems, shot, told } from './common.mjs';

// Without a certificate that the browser believes there are no passkeys, whatever a context ignores.
const browser = await launch('--ignore-certificate-errors');
const seen = { csp: [] };
let last;

// The pages' own content security policy holds here: the auditor gets a context of its own.
async function open(options) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  last = page;
  page.on('console', (message) => {
    const text = message.text();
    if (/Content Security Policy/.test(text)) seen.csp.push(text);
    else if (!/status of 40[349]/.test(text)) problems.push(`console: ${text}`);
  });
  page.on('pageerror', (error) => problems.push(`page: ${error.message}`));
  return { context, page };
}

async function authenticator(context, page) {
  const cdp = await context.newCDPSession(page);
  await cdp.send('WebAuthn.enable');
  const { authenticatorId } = await cdp.send('WebAuthn.addVirtualAuthenticator', {
    options: {
      protocol: 'ctap2', ctap2Version: 'ctap2_1', transport: 'internal', hasResidentKey: true, hasUserVerification: true,
      isUserVerified: true, automaticPresenceSimulation: true,
    },
  });
  return { cdp, authenticatorId };
}

const heading = (page) => page.textContent('h1');
const vault = (page) => page.locator('.reach li', { hasText: 'tcp/8200' }).innerText();
const shown = (page) => page.click('form[data-passkey] button');

async function password(page) {
  await page.fill('#user', told.user);
  await page.fill('#password', told.password);
  await page.click('form[action="/sign-in"] button');
}

async function whole() {
  const { context, page } = await open({ viewport: { width: 1100, height: 900 } });
  const { cdp, authenticatorId } = await authenticator(context, page);
  await page.goto(base);
  await shot(page, 'passkey-sign-in');
  await password(page);
  await page.fill('#code', await code());
  await page.click('form[action="/factor"] button');
  seen.withCode = await heading(page);
  seen.vaultBefore = await vault(page);
  await page.click('.actions a[href="/passkeys"]');
  seen.list = await heading(page);
  await shot(page, 'passkeys-none');
  await page.fill('#name', 'laptop');
  await Promise.all([page.waitForURL(`${base}passkeys`), page.waitForSelector('.card li'), shown(page)]);
  seen.added = await heading(page);
  seen.row = await page.locator('.card li').innerText();
  await shot(page, 'passkeys-added');
  await page.goto(base);
  seen.vaultWith = await vault(page);
  await page.goto(`${base}step-up`);
  await shot(page, 'passkey-step-up');
  await Promise.all([page.waitForURL(base), shown(page)]);
  seen.steppedUp = await heading(page);
  seen.vaultAfter = await vault(page);
  await shot(page, 'passkey-status');
  // The same device makes no second one.
  await page.goto(`${base}passkeys`);
  await page.fill('#name', 'again');
  await shown(page);
  await page.waitForSelector('form[data-passkey] [role=alert]:not([hidden])');
  seen.again = await page.textContent('form[data-passkey] [role=alert]');
  await shot(page, 'passkeys-again');
  // As a second factor.
  await page.goto(base);
  await page.click('form[action="/sign-out"] button');
  await password(page);
  await page.waitForSelector('form[data-passkey]:not([hidden])');
  await shot(page, 'passkey-second-step');
  await Promise.all([page.waitForURL(base), shown(page)]);
  seen.asFactor = await heading(page);
  // Alone; first it is cancelled.
  await page.click('form[action="/sign-out"] button');
  await cdp.send('WebAuthn.setUserVerified', { authenticatorId, isUserVerified: false });
  await shown(page);
  await page.waitForSelector('form[data-passkey] [role=alert]:not([hidden])');
  seen.cancelled = await page.textContent('form[data-passkey] [role=alert]');
  await shot(page, 'passkey-cancelled');
  await cdp.send('WebAuthn.setUserVerified', { authenticatorId, isUserVerified: true });
  await Promise.all([page.waitForSelector('form[action="/sign-out"]'), shown(page)]);
  seen.alone = await heading(page);
  seen.factorOfAlone = await page.locator('dl').innerText();
  seen.state = await context.storageState();
  await audits();
  // Removed, it is refused, though the authenticator has it still.
  await page.goto(`${base}passkeys`);
  await page.click('form[action="/passkeys/remove"] button');
  seen.removed = await heading(page);
  await Promise.all([page.waitForSelector('main > [role=alert]'), shown(page)]);
  seen.afterRemoval = await page.title();
  await shot(page, 'passkey-refused');
  await context.close();
}

// Accessibility, and widths, of the pages that tell of passkeys; on a phone too, light and dark.
async function audits() {
  const phone = { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
  for (const [name, options] of [['desk', { viewport: { width: 1100, height: 900 } }],
    ['phone-light', { ...phone, colorScheme: 'light' }], ['phone-dark', { ...phone, colorScheme: 'dark' }]]) {
    const { context, page } = await open({ ...options, bypassCSP: true, storageState: seen.state });
    const look = async (path) => {
      await page.goto(base + path);
      const what = `${name}-${path || (await context.cookies()).length}`;
      await audit(page, what);
      await shot(page, `passkeys-${what}`);
    };
    for (const path of ['passkeys', 'step-up', '']) await look(path);
    await context.clearCookies();
    await look('');
    await context.close();
  }
}

async function elsewhere() {
  const { context, page } = await open({ javaScriptEnabled: false, viewport: { width: 360, height: 740 } });
  await page.goto(base);
  seen.withoutScript = await page.locator('main').innerText();
  if (await page.locator('form[data-passkey]').isVisible()) problems.push('a form that can do nothing is shown');
  await shot(page, 'passkey-without-script');
  await context.close();
  const other = await open({ viewport: { width: 360, height: 740 } });
  await other.page.goto(`https://${told.address}/`);
  seen.atAddress = await other.page.locator('main').innerText();
  await shot(other.page, 'passkey-at-address');
  await other.context.close();
}

try {
  await elsewhere();
  await whole();
  delete seen.state;
} catch (error) {
  problems.push(`${error.stack}`, await last.locator('main').innerText().catch(() => 'the page is gone'));
} finally {
  await end(browser, seen);
}
