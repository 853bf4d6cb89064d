// A certified OpenID provider for tests: node server.mjs PORT CLIENT_ID CLIENT_SECRET REDIRECT_URI
import { generateKeyPairSync } from 'node:crypto';
import { Provider } from 'oidc-provider';

const [port, clientId, clientSecret, redirectUri] = process.argv.slice(2);
const key = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' });
const people = {
  alice: { email: 'alice@example.com', name: 'Alice', groups: ['admins', 'eng'] },
  bob: { email: 'bob@example.com', name: 'Bob', groups: ['eng'] },
};
const provider = new Provider(`http://localhost:${port}`, {
  jwks: { keys: [{ ...key, kid: 'rsa', alg: 'RS256', use: 'sig' }] },
  cookies: { keys: ['only', 'for', 'tests'] },
  clients: [{
    client_id: clientId,
    client_secret: clientSecret,
    redirect_uris: [redirectUri],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
  }],
  scopes: ['openid', 'offline_access', 'email', 'groups', 'profile'],
  claims: { openid: ['sub'], email: ['email', 'email_verified'], groups: ['groups'], profile: ['name'] },
  features: { devInteractions: { enabled: true }, rpInitiatedLogout: { enabled: true }, revocation: { enabled: true } },
  // As strict as they come: every refresh token serves once, and a second use ends all that came of the sign-in.
  rotateRefreshToken: () => true,
  issueRefreshToken: (_, client) => client.grantTypeAllowed('refresh_token'),
  ttl: { AccessToken: 600, IdToken: 86400 },
  pkce: { required: () => true },
  async findAccount(_, id) {
    return { accountId: id, async claims() { return { sub: id, email_verified: true, ...people[id] }; } };
  },
});
provider.listen(Number(port), '127.0.0.1', () => console.log(JSON.stringify({ ready: true })));
