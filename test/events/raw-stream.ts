import { connect, type Socket } from 'node:net';
import { waitFor } from '../service.ts';

/** A stream as it arrives on the wire. */
export interface RawStream {
  socket: Socket;
  text(): string;
  /** Waits until the text holds something. */
  has(what: string): Promise<void>;
  isClosed(): boolean;
  close(): void;
}

/** Subscribes over a socket of its own, so that a test sees every byte and may stop to read. */
export function openRawStream(
  url: string,
  token: string,
  query: string,
  options: { version?: '1.0' | '1.1'; headers?: Record<string, string> } = {},
): RawStream {
  const { hostname, port, pathname, host } = new URL(url);
  const body = JSON.stringify({ query });
  const socket = connect({ host: hostname, port: Number(port) });
  let text = '';
  let closed = false;
  const headers = {
    host,
    accept: 'text/event-stream',
    'content-type': 'application/json',
    'content-length': String(Buffer.byteLength(body)),
    authorization: `Bearer ${token}`,
    ...options.headers,
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}`);
  socket.on('connect', () => {
    socket.write([`POST ${pathname} HTTP/${options.version ?? '1.1'}`, ...lines, '', body].join('\r\n'));
  });
  socket.on('data', (chunk) => {
    text += chunk.toString();
  });
  socket.on('error', () => undefined);
  socket.on('close', () => {
    closed = true;
  });
  return {
    socket,
    text: () => text,
    has: async (what) => {
      await waitFor(`"${what}" on the wire`, () => text.includes(what));
    },
    isClosed: () => closed,
    close: () => socket.destroy(),
  };
}
