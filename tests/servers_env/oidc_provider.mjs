// A certified OpenID provider with client credentials, and a small API that takes its tokens.
// node oidc_provider.mjs PORT SECRET LIFETIME_S
// A token is for the `resource` that was asked for (RFC 8707), else for urn:api.
// POST /_control {lifetime, slow_ms, claims, alg, revoke, reset} changes its behaviour and answers its counters.
import http from 'node:http';
import { createRemoteJWKSet, exportJWK, generateKeyPair, jwtVerify } from 'jose';
import { Provider } from 'oidc-provider';

const [port, secret, lifetime] = [Number(process.argv[2]), process.argv[3], Number(process.argv[4])];
const SCOPES = 'api:read api:write studio:read studio:write';
const issuer = `http://127.0.0.1:${port}`;
const start = () => ({ lifetime, slow_ms: 0, claims: {}, alg: 'RS256', revoked_before: 0, token_requests: 0, api_calls: 0, refused: 0 });
let state = start();

const client = (id) => ({
  client_id: id, client_secret: secret, grant_types: ['client_credentials'], redirect_uris: [], response_types: [],
  token_endpoint_auth_method: `client_secret_${id}`,
});
const key = async (alg) => ({ ...await exportJWK((await generateKeyPair(alg, { extractable: true })).privateKey), alg, use: 'sig' });
const provider = new Provider(issuer, {
  jwks: { keys: [await key('RS256'), await key('ES256')] },
  clients: [client('basic'), client('post')],
  scopes: SCOPES.split(' '),
  extraTokenClaims: () => state.claims,
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: true }, // two forms, for people who sign in
    registration: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => 'urn:api',
      getResourceServerInfo: (_context, resource) => ({
        scope: SCOPES, audience: resource, accessTokenTTL: state.lifetime, accessTokenFormat: 'jwt',
        jwt: { sign: { alg: state.alg } },
      }),
    },
  },
});
const keys = createRemoteJWKSet(new URL(`${issuer}/jwks`));
const oidc = provider.callback();

const body = async (request) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts).toString();
};
const json = (response, status, value) => {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(value));
};

async function api(request, response) {
  state.api_calls += 1;
  try {
    const token = (request.headers.authorization ?? '').replace(/^Bearer /, '');
    const { payload } = await jwtVerify(token, keys, { issuer, audience: 'urn:api' });
    if (state.revoked.has(payload.jti)) throw new Error('revoked');
    state.seen.add(payload.jti);
    json(response, 200, { client: payload.client_id, scope: payload.scope, jti: payload.jti });
  } catch {
    state.refused += 1;
    json(response, 401, { error: 'invalid_token' });
  }
}

async function control(request, response) {
  const wanted = JSON.parse(await body(request));
  if (wanted.reset || !state.seen) state = { ...start(), seen: new Set(), revoked: new Set() };
  // All tokens that were used so far stop working, as after a rotation of keys.
  if (wanted.revoke) state.revoked = new Set(state.seen);
  for (const name of ['lifetime', 'slow_ms', 'claims', 'alg']) if (name in wanted) state[name] = wanted[name];
  const { token_requests, api_calls, refused } = state;
  json(response, 200, { token_requests, api_calls, refused });
}
state = { ...state, seen: new Set(), revoked: new Set() };

http.createServer(async (request, response) => {
  if (request.url === '/_control') return control(request, response);
  if (request.url.startsWith('/api/')) return api(request, response);
  if (request.url === '/token') {
    state.token_requests += 1;
    if (state.slow_ms) await new Promise((done) => setTimeout(done, state.slow_ms));
  }
  return oidc(request, response);
}).listen(port, '127.0.0.1');
