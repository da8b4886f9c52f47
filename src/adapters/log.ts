import { type DestinationStream, type Logger, pino } from 'pino';

export type Log = Logger;

/** Names of members that never reach a log line, at the top and one level down. */
const secretMembers = ['authorization', 'token', 'apiKey', 'password', 'secret', 'content', 'cookie'];

/**
 * Structured log on standard output. Lines carry ids and codes; message texts and secrets are left out by their callers,
 * and the redaction here is the second line.
 */
export function createLog(options: { level: string; destination?: DestinationStream }): Log {
  const settings = {
    level: options.level,
    redact: { paths: secretMembers.flatMap((name) => [name, `*.${name}`]), censor: '[redacted]' },
    base: { service: 'retinue' },
  };
  return options.destination === undefined ? pino(settings) : pino(settings, options.destination);
}
