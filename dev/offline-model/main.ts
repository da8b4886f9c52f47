import { startOfflineModel } from './server.ts';

// Run as `node dev/offline-model/main.ts`, with OFFLINE_MODEL_PORT and OFFLINE_MODEL_API_KEY when they shall be fixed.
const port = process.env['OFFLINE_MODEL_PORT'];
const apiKey = process.env['OFFLINE_MODEL_API_KEY'];
const model = await startOfflineModel({
  ...(port === undefined ? {} : { port: Number.parseInt(port, 10) }),
  ...(apiKey === undefined ? {} : { apiKey }),
});
console.log(`The offline model, rule-based and no real one, listens at ${model.url}. Its API key is ${model.apiKey}`);
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void model.stop());
