import { connect, type Socket } from 'node:net';
import { runChild } from '../child.ts';
import { document, mark, type OpenReaders, type Reader, type Received, sharedClock } from './settings.ts';

const openedAtOnce = 100;
const openDeadline = 30_000;
const mostLatencies = 100_000;
const body = JSON.stringify({ query: document });

let sockets: Socket[] = [];
let latencies: number[] = [];
let events = 0;
let ended = 0;

// Readers that do as little as they can, so that what is measured is the server: each finds the marks in what arrives.
runChild(async () => ({
  ready: null,
  commands: {
    open: async ({ url, readers }: OpenReaders): Promise<number> => {
      reset();
      const start = performance.now();
      for (let place = 0; place < readers.length; place += openedAtOnce) {
        await Promise.all(readers.slice(place, place + openedAtOnce).map((reader) => open(new URL(url), reader)));
      }
      return performance.now() - start;
    },
    reset,
    received: (): Received => ({ events, latencies, ended }),
    close: () => {
      for (const socket of sockets) {
        socket.destroy();
      }
      sockets = [];
    },
  },
  stop: async () => undefined,
}));

function reset(): void {
  latencies = [];
  events = 0;
  ended = 0;
}

/** Resolves with the first bytes of the stream's body. @throws Error when the server refuses */
async function open(url: URL, { token }: Reader): Promise<void> {
  const opened = Promise.withResolvers<void>();
  const late = setTimeout(() => opened.reject(new Error('a stream did not open in time')), openDeadline);
  let isOpen = false;
  /** What came of a mark that is split between two reads. */
  let rest = '';
  const socket = connect({ host: url.hostname, port: Number(url.port), noDelay: true });
  socket.setEncoding('latin1');
  socket.on('connect', () => {
    socket.write(
      `POST ${url.pathname} HTTP/1.1\r\nHost: ${url.host}\r\nContent-Type: application/json\r\n` +
        `Accept: text/event-stream\r\nAuthorization: Bearer ${token}\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    );
  });
  socket.on('data', (text: string) => {
    if (!isOpen) {
      rest += text;
      if (!rest.startsWith('HTTP/1.1 200') && rest.length > 12) {
        opened.reject(new Error(`a stream was refused: ${rest.slice(0, 500)}`));
      }
      if (rest.includes(':\n\n', rest.indexOf('\r\n\r\n') + 4)) {
        isOpen = true;
        rest = '';
        opened.resolve();
      }
      return;
    }
    const now = sharedClock();
    const whole = rest + text;
    let end = 0;
    for (let found = whole.indexOf(mark); found >= 0; found = whole.indexOf(mark, found + mark.length)) {
      const close = whole.indexOf('"', found);
      if (close < 0) {
        break;
      }
      end = close;
      events += 1;
      if (latencies.length < mostLatencies) {
        latencies.push(now - Number(whole.slice(found + mark.length, close)));
      }
    }
    rest = whole.slice(Math.max(end, whole.length - 64));
  });
  socket.on('error', () => undefined);
  socket.on('close', () => {
    ended += 1;
    opened.reject(new Error('a stream ended before it began'));
  });
  sockets.push(socket);
  try {
    await opened.promise;
  } finally {
    clearTimeout(late);
  }
}
