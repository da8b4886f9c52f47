import { mkdir } from 'node:fs/promises';
import { loadDevelopmentKey, signDevelopmentToken } from './identity.ts';
import { defaultDataFolder, startLocal } from './local.ts';

// `npm start`: the whole service on this machine until it is interrupted, with GraphiQL signed in as alice.
await mkdir(defaultDataFolder, { recursive: true });
const token = await signDevelopmentToken(await loadDevelopmentKey(defaultDataFolder), 'alice');
const service = await startLocal({
  dataFolder: defaultDataFolder,
  environment: { GRAPHIQL: 'true', GRAPHIQL_TOKEN: token, LOG_LEVEL: 'info', ...process.env },
  log: (line) => console.log(line),
});
// At the pace of a real one, so that an answer can be watched, and stopped, while it is written.
service.model?.setBehaviour({ tokenDelayMs: 40 });
console.log(`
Retinue is running.
  GraphiQL  ${service.api.url}   (open it in a browser; it is signed in as alice)
  Tokens    npm run token -- --user bob
  Model     ${service.model === null ? 'the one of MODEL_BASE_URL' : 'offline, rule-based: it answers from what it is told and is no real model'}
Stop it with Ctrl-C.
`);

let stopping = false;
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    if (stopping) {
      process.exit(1);
    }
    stopping = true;
    service.stop().then(
      () => process.exit(0),
      (error: unknown) => {
        console.error(error);
        process.exit(1);
      },
    );
  });
}
