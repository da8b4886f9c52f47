import { createLog } from '../../src/adapters/log.ts';
import { startApi } from '../../src/app.ts';
import { runChild } from '../child.ts';
import { type ServiceSettings, serviceConfig } from './settings.ts';

runChild<ServiceSettings, { url: string }>(async (settings) => {
  const config = serviceConfig(settings);
  const api = await startApi(config, createLog({ level: config.LOG_LEVEL }));
  return { ready: { url: api.url }, commands: {}, stop: () => api.stop() };
});
