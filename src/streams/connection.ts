import type { ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { completeFrame, type Frame } from './frame.ts';

/** What may wait for one connection's reader. */
export interface ConnectionLimits {
  /** Bytes that the reader's system has not taken. */
  bytes: number;
  events: number;
}

/** Milliseconds that a reader has to take what was written before the end. */
const endDeadline = 5_000;

/**
 * One reader's response, from the first byte of its body on. Frames go straight to the socket: what `ServerResponse` would
 * add is in the frame, once for all connections.
 */
export class Connection {
  /** When its token ends, in milliseconds since the epoch. */
  readonly expiresAt: number;
  /** It has everything up to here already. */
  readonly start: number;
  private readonly response: ServerResponse;
  private readonly socket: Socket;
  private readonly isChunked: boolean;
  private readonly limits: ConnectionLimits;
  /** Frames since the socket had nothing waiting. */
  private waiting = 0;
  private isEnded = false;

  constructor(
    response: ServerResponse,
    socket: Socket,
    limits: ConnectionLimits,
    { expiresAt, start }: { expiresAt: number; start: number },
  ) {
    this.response = response;
    this.socket = socket;
    this.limits = limits;
    this.expiresAt = expiresAt;
    this.start = start;
    response.flushHeaders();
    this.isChunked = response.chunkedEncoding;
  }

  get isOpen(): boolean {
    return !this.isEnded && !this.socket.destroyed;
  }

  /** Bytes that wait for the reader. */
  get backlog(): number {
    return this.socket.writableLength;
  }

  /** Writes a frame, unless the reader is too far behind: then nothing is written and the answer is false. */
  write(frame: Frame): boolean {
    if (!this.isOpen) {
      return true;
    }
    const backlog = this.socket.writableLength;
    if (backlog === 0) {
      this.waiting = 0;
    } else if (backlog > this.limits.bytes || this.waiting >= this.limits.events) {
      return false;
    }
    this.waiting += 1;
    this.socket.write(this.isChunked ? frame.chunk : frame.plain);
    return true;
  }

  /** Writes what a reader is owed before it goes live, in one packet and whatever waits. */
  begin(frames: readonly Frame[]): void {
    if (!this.isOpen) {
      return;
    }
    this.socket.cork();
    for (const frame of frames) {
      this.socket.write(this.isChunked ? frame.chunk : frame.plain);
    }
    this.socket.uncork();
  }

  /** Ends the stream behind these frames, which are written whatever waits. A reader that does not take them is cut off. */
  end(last: readonly Frame[]): void {
    if (!this.isOpen) {
      return;
    }
    this.isEnded = true;
    for (const frame of [...last, completeFrame]) {
      this.socket.write(this.isChunked ? frame.chunk : frame.plain);
    }
    const { socket, response } = this;
    const cut = setTimeout(() => socket.destroy(), endDeadline).unref();
    response.once('close', () => clearTimeout(cut));
    response.end();
  }
}
