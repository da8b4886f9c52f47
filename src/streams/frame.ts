/** What is written to many connections, encoded once. */
export interface Frame {
  /** As a chunk of HTTP/1.1's chunked coding. */
  readonly chunk: Buffer;
  /** The same without the coding, for HTTP/1.0. A part of `chunk`, not a copy. */
  readonly plain: Buffer;
}

function frame(text: string): Frame {
  const length = Buffer.byteLength(text);
  const head = `${length.toString(16)}\r\n`;
  const chunk = Buffer.allocUnsafeSlow(head.length + length + 2);
  chunk.write(head, 0, 'latin1');
  chunk.write(text, head.length, 'utf8');
  chunk.write('\r\n', head.length + length, 'latin1');
  return { chunk, plain: chunk.subarray(head.length, head.length + length) };
}

/**
 * One result in the distinct connections mode of GraphQL over SSE. `id` lets an EventSource resume by itself; the
 * protocol's own clients pass over it.
 */
export function nextFrame(result: string, cursor: string): Frame {
  return frame(`event: next\ndata: ${result}\nid: ${cursor}\n\n`);
}

/** A comment: some browsers tell of a stream only when its first bytes arrive. */
export const openingFrame: Frame = frame(':\n\n');

/** The end of a stream. */
export const completeFrame: Frame = frame('event: complete\ndata:\n\n');

/** Asks an EventSource to wait that many milliseconds before it comes back. */
export function retryFrame(milliseconds: number): Frame {
  return frame(`retry: ${milliseconds}\n\n`);
}
