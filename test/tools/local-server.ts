import { once } from 'node:events';
import { createServer, type IncomingMessage, type RequestListener } from 'node:http';
import { listen } from '../../dev/listen.ts';

export interface LocalServer {
  /** Such as `http://127.0.0.1:40123`. */
  origin: string;
  /** What arrived, with the body once it is there. */
  received: { method: string; path: string; headers: IncomingMessage['headers']; body: string }[];
  connections(): number;
  stop(): Promise<void>;
}

/** A real HTTP server on a port of its own, which keeps what it was asked. */
export async function startLocalServer(handle: RequestListener): Promise<LocalServer> {
  const received: LocalServer['received'] = [];
  let connections = 0;
  const server = createServer((request, response) => {
    const entry = { method: request.method ?? '', path: request.url ?? '', headers: request.headers, body: '' };
    received.push(entry);
    request.on('data', (piece: Buffer) => {
      entry.body += piece.toString();
    });
    request.on('end', () => handle(request, response));
  });
  server.on('connection', () => {
    connections += 1;
  });
  const { origin } = await listen(server);
  return {
    origin,
    received,
    connections: () => connections,
    stop: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}
