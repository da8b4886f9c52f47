import { createLog } from './adapters/log.ts';
import { startApi } from './app.ts';
import { readConfig } from './config.ts';
import { stopOnSignal } from './shutdown.ts';

const config = readConfig(process.env);
const log = createLog({ level: config.LOG_LEVEL });
stopOnSignal(await startApi(config, log), log, config.SHUTDOWN_TIMEOUT * 2);
