import { createLog } from '../../src/adapters/log.ts';
import { startTaskWorker } from '../../src/app.ts';
import { runChild } from '../child.ts';
import { type ServiceSettings, serviceConfig } from './settings.ts';

runChild<ServiceSettings, null>(async (settings) => {
  const config = serviceConfig(settings);
  const worker = await startTaskWorker(config, createLog({ level: config.LOG_LEVEL }));
  return { ready: null, commands: {}, stop: () => worker.stop() };
});
