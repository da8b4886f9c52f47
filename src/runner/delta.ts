/** Gathers streamed text and hands it on in pieces, each with its place in the answer. */
export interface DeltaWriter {
  write(text: string): void;
  /** Hands on what is left and stops the timer. */
  end(): void;
}

/** Milliseconds that text may wait for more: below what an eye notices, far fewer messages than tokens. */
const flushInterval = 40;

/** The first piece goes out at once; later ones at most every 40 ms. */
export function createDeltaWriter(send: (offset: number, text: string) => void): DeltaWriter {
  let offset = 0;
  let waiting = '';
  let timer: NodeJS.Timeout | null = null;

  const flush = (last = false): void => {
    // Half of a surrogate pair waits for its other half: alone it is no text.
    const length = !last && /[\uD800-\uDBFF]$/.test(waiting) ? waiting.length - 1 : waiting.length;
    if (length > 0) {
      send(offset, waiting.slice(0, length));
      offset += length;
      waiting = waiting.slice(length);
    }
  };
  return {
    write: (text) => {
      waiting += text;
      if (timer === null) {
        flush();
        timer = setTimeout(() => {
          timer = null;
          flush();
        }, flushInterval);
      }
    },
    end: () => {
      if (timer !== null) {
        clearTimeout(timer);
      }
      flush(true);
    },
  };
}
