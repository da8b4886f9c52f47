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
    serializers: { err: describeFault },
    redact: { paths: secretMembers.flatMap((name) => [name, `*.${name}`]), censor: '[redacted]' },
    base: { service: 'retinue' },
  };
  return options.destination === undefined ? pino(settings) : pino(settings, options.destination);
}

/**
 * What a log may say of a fault: its kind, code, message and where it was thrown. Everything else that errors carry may hold
 * what a user wrote: Postgres puts the failing row into `detail`, a model's client puts the prompt into its body.
 */
export function describeFault(fault: unknown): Record<string, unknown> {
  if (!(fault instanceof Error)) {
    return { type: typeof fault };
  }
  const code = 'code' in fault && typeof fault.code === 'string' ? { code: fault.code } : {};
  const cause = fault.cause === undefined ? {} : { cause: describeFault(fault.cause) };
  return { type: fault.name, ...code, message: describeMessage(fault), stack: frames(fault), ...cause };
}

/** Messages of ours and of Postgres name columns and limits; a value that Postgres repeats stands in quotes at the end. */
function describeMessage(fault: Error): string {
  return fault.message.replace(/: ".*"$/s, ': "…"').slice(0, 500);
}

/** The stack begins with the message, which is given apart. */
function frames(fault: Error): string[] {
  return (fault.stack ?? '')
    .split('\n')
    .filter((line) => /^\s+at /.test(line))
    .slice(0, 12)
    .map((line) => line.trim());
}
