// A real identity provider for tests and for trying things out: oidc-provider, on loopback, with a
// few people and programs, and a login without pages.
//
//   node tools/idp/idp.mjs [PORT]      prints {"issuer": ...} when it listens; ends with its stdin
//
// Promises: everything about tokens is oidc-provider's own (RFC 9068, 9449, 9470); what is ours is
// who exists and what they claim. Refuses: to be for anything but tests: passwords are in this file,
// keys live in memory, and whoever reaches it may change people and keys below /_test.
import http from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import Provider, { errors, interactionPolicy } from 'oidc-provider';

const ACR = { pwd: 'urn:hotcell:acr:pwd', mfa: 'urn:hotcell:acr:mfa' };
const STRENGTH = { [ACR.pwd]: 1, [ACR.mfa]: 2 };
const AUDIENCES = ['https://api.hotcell.test', 'https://other.hotcell.test'];
const SCOPE = 'transcode:submit';
const REDIRECT = 'http://127.0.0.1:9/callback';
const BODY_BYTES_MAX = 4096;

// Everybody's password is `pw`, everybody's one-time code `123456`.
const PEOPLE = {
  ana: { groups: ['video-editors'] },
  ben: { groups: ['video-leads'] },
  kim: { groups: ['video-leads', 'video-editors'] },
  eve: { groups: ['bolt-editors'] },
  nob: { groups: [] },
};
// Programs, and the algorithm of their tokens.
const PROGRAMS = { ci: 'ES256', 'ci-eddsa': 'EdDSA', 'ci-ps256': 'PS256', 'ci-rs256': 'RS256' };

let generation = 0;

function keys() {
  generation += 1;
  const key = (kind, options, alg) => ({
    ...generateKeyPairSync(kind, options).privateKey.export({ format: 'jwk' }),
    kid: `${alg}-${generation}`, alg, use: 'sig',
  });
  return [
    key('ec', { namedCurve: 'P-256' }, 'ES256'),
    key('ed25519', {}, 'EdDSA'),
    key('rsa', { modulusLength: 2048 }, 'PS256'),
    key('rsa', { modulusLength: 2048 }, 'RS256'),
  ];
}

// oidc-provider asks for a login again because of `acr` only where the claims parameter makes it
// essential. Clients of RFC 9470 send `acr_values`: without this they would get the old `acr`.
function policy() {
  const all = interactionPolicy.base();
  all.remove('consent');
  const weaker = ctx => {
    const wanted = (ctx.oidc.params.acr_values ?? '').split(' ').filter(acr => acr in STRENGTH);
    const shown = STRENGTH[ctx.oidc.session.acr] ?? 0;
    return wanted.length > 0 && !wanted.some(acr => shown >= STRENGTH[acr]);
  };
  const { Check } = interactionPolicy;
  const check = ctx => (weaker(ctx) ? Check.REQUEST_PROMPT : Check.NO_NEED_TO_PROMPT);
  all.get('login').checks.add(new Check('acr_values', 'a stronger login is asked for', check));
  return all;
}

function clients() {
  const programs = Object.keys(PROGRAMS).map(id => ({
    client_id: id, client_secret: `${id}-secret`, scope: SCOPE,
    grant_types: ['client_credentials'], response_types: [], redirect_uris: [],
  }));
  const people = {
    client_id: 'web', token_endpoint_auth_method: 'none', application_type: 'native',
    grant_types: ['authorization_code', 'refresh_token'], response_types: ['code'],
    redirect_uris: [REDIRECT], require_auth_time: true, id_token_signed_response_alg: 'ES256',
  };
  return [...programs, people];
}

// RFC 9068 §2.2.1, and the groups that rules read.
function claims(ctx, token) {
  const login = ctx.oidc.entities.AuthorizationCode ?? ctx.oidc.entities.RefreshToken;
  if (!login) return {};
  const { acr, amr, authTime: auth_time } = login;
  return { acr, amr, auth_time, groups: PEOPLE[token.accountId]?.groups };
}

function make(issuer) {
  return new Provider(issuer, {
    jwks: { keys: keys() },
    cookies: { keys: ['tests'] },
    acrValues: Object.values(ACR),
    scopes: ['openid', 'offline_access', SCOPE],
    claims: { openid: ['sub'], acr: null, amr: null, auth_time: null },
    clients: clients(),
    clientDefaults: { id_token_signed_response_alg: 'ES256' },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      dPoP: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => AUDIENCES[0],
        useGrantedResource: () => true,
        getResourceServerInfo(_ctx, audience, client) {
          if (!AUDIENCES.includes(audience)) throw new errors.InvalidTarget();
          const alg = PROGRAMS[client.clientId] ?? 'ES256';
          return { audience, scope: SCOPE, accessTokenTTL: 300, accessTokenFormat: 'jwt', jwt: { sign: { alg } } };
        },
      },
    },
    ttl: { AccessToken: 300, AuthorizationCode: 60, ClientCredentials: 300, Grant: 3600, IdToken: 300, Interaction: 300, RefreshToken: 3600, Session: 3600 },
    findAccount: async (_ctx, id) => PEOPLE[id] && { accountId: id, claims: async () => ({ sub: id }) },
    extraTokenClaims: claims,
    interactions: { policy: policy(), url: (_ctx, it) => `/login/${it.uid}` },
    async loadExistingGrant(ctx) {
      const { client, session, provider } = ctx.oidc;
      const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
      grant.addOIDCScope(`openid offline_access ${SCOPE}`);
      for (const audience of AUDIENCES) grant.addResourceScope(audience, SCOPE);
      await grant.save();
      return grant;
    },
  });
}

async function form(req) {
  let body = '';
  for await (const chunk of req) {
    body += chunk;
    if (body.length > BODY_BYTES_MAX) throw new Error('the body is too long');
  }
  return new URLSearchParams(body);
}

// A login by form: user, pw, and otp for a second factor. `age` makes it that many seconds old.
async function login(provider, req, res) {
  const fields = await form(req);
  const user = fields.get('user');
  if (!PEOPLE[user] || fields.get('pw') !== 'pw') {
    res.writeHead(403).end();
    return;
  }
  const mfa = fields.get('otp') === '123456';
  const ts = Math.floor(Date.now() / 1000) - Number(fields.get('age') ?? 0);
  const amr = mfa ? ['pwd', 'otp', 'mfa'] : ['pwd'];
  const result = { login: { accountId: user, acr: mfa ? ACR.mfa : ACR.pwd, amr, ts } };
  await provider.interactionFinished(req, res, result, { mergeWithLastSubmission: false });
}

const server = http.createServer();
server.listen(Number(process.argv[2] ?? 0), '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  let provider = make(issuer);
  let serve = provider.callback();
  server.on('request', async (req, res) => {
    try {
      const { pathname } = new URL(req.url, issuer);
      if (pathname.startsWith('/login/')) {
        await login(provider, req, res);
      } else if (pathname === '/_test/rotate') {
        provider = make(issuer);
        serve = provider.callback();
        res.writeHead(204).end();
      } else if (pathname === '/_test/groups') {
        const fields = await form(req);
        PEOPLE[fields.get('user')].groups = fields.get('groups').split(',').filter(Boolean);
        res.writeHead(204).end();
      } else {
        serve(req, res);
      }
    } catch (error) {
      console.error(error);
      if (!res.headersSent) res.writeHead(500);
      res.end();
    }
  });
  console.log(JSON.stringify({ issuer }));
});
// Whoever started it is gone.
process.stdin.on('end', () => process.exit(0)).resume();
