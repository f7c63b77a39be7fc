// A small identity provider for the tests, made of the certified `oidc-provider`: users are who they say they are, and
// whoever types the password "strong" has shown a factor that cannot be phished.
//
// node provider.mjs MODULES PORT CERTIFICATE KEY REDIRECT KID
import https from 'node:https';
import fs from 'node:fs';
import { generateKeyPairSync } from 'node:crypto';
import { pathToFileURL } from 'node:url';

const [modules, port, certificate, key, redirect, kid] = process.argv.slice(2);
const { Provider } = await import(pathToFileURL(`${modules}/oidc-provider/lib/index.js`));

// Nobody reads what the library says about being used for tests.
console.log = console.info = console.warn = () => {};

const issuer = `https://localhost:${port}`;
const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const jwk = { ...privateKey.export({ format: 'jwk' }), kid, use: 'sig', alg: 'RS256' };

const GROUPS = { alice: ['staff', 'dba'], bob: ['contractors'] };

const provider = new Provider(issuer, {
  clients: [{
    client_id: 'bulkhead',
    client_secret: 'a secret: with + and %',
    redirect_uris: [redirect],
    grant_types: ['authorization_code', 'urn:ietf:params:oauth:grant-type:device_code'],
    response_types: ['code'],
    token_endpoint_auth_method: 'client_secret_basic',
  }],
  jwks: { keys: [jwk] },
  cookies: { keys: ['only', 'for', 'tests'] },
  features: { devInteractions: { enabled: false }, deviceFlow: { enabled: true }, claimsParameter: { enabled: true } },
  acrValues: ['0', 'phr'],
  claims: {
    acr: null, amr: null, auth_time: null, iss: null, sid: null,
    openid: ['sub'], email: ['email', 'email_verified'], groups: ['realm_access'],
  },
  // As Keycloak and others do; with `true` what scopes ask for comes from the user information alone.
  conformIdTokenClaims: process.env.CLAIMS_IN === 'userinfo',
  pkce: { required: () => true },
  ttl: {
    AccessToken: 60, AuthorizationCode: 60, DeviceCode: 300, Grant: 600, IdToken: 300, Interaction: 300, Session: 600,
  },
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  findAccount: (ctx, id) => ({
    accountId: id,
    claims: () => ({
      sub: id,
      email: `${id}@example.org`,
      email_verified: id !== 'mallory',
      realm_access: { roles: GROUPS[id] ?? [] },
    }),
  }),
});

async function form(request) {
  let body = '';
  for await (const part of request) body += part;
  return new URLSearchParams(body);
}

async function interact(request, response) {
  const { prompt, params, session, grantId } = await provider.interactionDetails(request, response);
  if (prompt.name === 'login') {
    if (request.method === 'GET') {
      response.setHeader('content-type', 'text/html');
      response.end('<form method="post" action=""><input name="login"><input name="password" type="password"></form>');
      return;
    }
    const typed = await form(request);
    const strong = typed.get('password') === 'strong';
    const login = {
      accountId: typed.get('login'),
      acr: strong ? 'phr' : '0',
      amr: strong ? ['hwk', 'pin'] : ['pwd', 'otp'],
    };
    await provider.interactionFinished(request, response, { login });
    return;
  }
  // Everybody consents.
  const grant = grantId
    ? await provider.Grant.find(grantId)
    : new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope((prompt.details.missingOIDCScope ?? []).join(' '));
  grant.addOIDCClaims(prompt.details.missingOIDCClaims ?? []);
  const consent = { grantId: await grant.save() };
  await provider.interactionFinished(request, response, { consent }, { mergeWithLastSubmission: true });
}

const callback = provider.callback();
const options = { cert: fs.readFileSync(certificate), key: fs.readFileSync(key) };
https.createServer(options, (request, response) => {
  if (request.url.startsWith('/interaction/')) {
    interact(request, response).catch((error) => {
      console.error(error);
      response.statusCode = 500;
      response.end();
    });
    return;
  }
  callback(request, response);
}).listen(Number(port), '127.0.0.1', () => process.stdout.write('ready\n'));
