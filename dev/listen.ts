import { once } from 'node:events';
import type { AddressInfo, Server } from 'node:net';

/** Where a server answers. */
export interface Listening {
  readonly port: number;
  /** As of HTTP, without a slash at the end. */
  readonly origin: string;
}

/**
 * Lets a server of development, tests or benchmarks answer: at a free port of this machine unless told another.
 * @param options.backlog most connections that wait to be accepted; Node.js' own default unless set
 * @throws Error when the port is taken
 */
export async function listen(
  server: Server,
  { port = 0, host = '127.0.0.1', backlog = 511 }: { port?: number; host?: string; backlog?: number } = {},
): Promise<Listening> {
  server.listen(port, host, backlog);
  await once(server, 'listening');
  const { port: given } = server.address() as AddressInfo;
  return { port: given, origin: `http://${host}:${given}` };
}
