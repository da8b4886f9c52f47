import { once } from 'node:events';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';

/**
 * Lets a server of a benchmark's child answer on this machine, at a free port.
 * @param backlog most connections that wait to be accepted; Node.js' own default unless set
 * @returns its origin, without a slash at the end
 */
export async function listen(server: Server, backlog = 511): Promise<string> {
  server.listen(0, '127.0.0.1', backlog);
  await once(server, 'listening');
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}
