import { startOfflineModel } from '../../dev/offline-model/server.ts';
import { runChild } from '../child.ts';

runChild<null, { url: string; key: string }>(async () => {
  const model = await startOfflineModel();
  // An answer that takes a while, so that many are under way at once.
  model.setBehaviour({ delayMs: 200, tokenDelayMs: 20 });
  return { ready: { url: model.url, key: model.apiKey }, commands: {}, stop: () => model.stop() };
});
