import { mkdir } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { loadDevelopmentKey, signDevelopmentToken } from './identity.ts';
import { defaultDataFolder } from './local.ts';

// `npm run token -- --user alice [--valid-for 12h]`: prints a token that the service on this machine accepts.
const { values } = parseArgs({
  options: { user: { type: 'string' }, 'valid-for': { type: 'string', default: '12h' } },
});
if (values.user === undefined || values.user === '') {
  console.error('usage: npm run token -- --user NAME [--valid-for 12h]');
  process.exit(1);
}
await mkdir(defaultDataFolder, { recursive: true });
console.log(await signDevelopmentToken(await loadDevelopmentKey(defaultDataFolder), values.user, values['valid-for']));
