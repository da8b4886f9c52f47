import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { listen } from '../../dev/listen.ts';

/** One address for a service that moves: passes bytes on to wherever it is, until a connection is cut. */
export interface Gate {
  port: number;
  /** Breaks every connection, as a failing network does. */
  cut(): void;
  close(): Promise<void>;
}

/** `target` gives the port of the service on this machine at the time of each connection. */
export async function openGate(target: () => number): Promise<Gate> {
  const sockets = new Set<Socket>();
  const server = createServer((near) => {
    const far = connect(target(), '127.0.0.1');
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        sockets.delete(socket);
        other.destroy();
      });
      socket.pipe(other);
    }
  });
  const { port } = await listen(server);
  const cut = (): void => {
    for (const socket of sockets) {
      socket.destroy();
    }
  };
  return {
    port,
    cut,
    close: async () => {
      cut();
      server.close();
      await once(server, 'close');
    },
  };
}
