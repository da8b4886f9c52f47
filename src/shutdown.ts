import type { Log } from './adapters/log.ts';
import type { Running } from './app.ts';

/** Stops gracefully at the first SIGTERM or SIGINT, at once at the second, and at the latest after the time limit. */
export function stopOnSignal(running: Running, log: Log, timeLimit: number): void {
  let asked = false;
  const stop = (signal: NodeJS.Signals): void => {
    if (asked) {
      log.warn({ signal }, 'stopping now');
      process.exit(1);
    }
    asked = true;
    log.info({ signal }, 'stopping');
    setTimeout(() => process.exit(1), timeLimit).unref();
    running.stop().then(
      () => process.exit(0),
      (error: unknown) => {
        log.error({ err: error }, 'stop failed');
        process.exit(1);
      },
    );
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
}
