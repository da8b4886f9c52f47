/** Gathers streamed text and hands it on in pieces, each with its place in the answer. */
export interface DeltaWriter {
  write(text: string): void;
  /** Hands on what is left and stops the timer. */
  end(): void;
}

/** What the answers have in common that one process writes at the same time: how often they hand on pieces. */
export interface DeltaPace {
  /** Counts an answer in; the returned function counts it out, and may be called twice. */
  enter(): () => void;
  /** Milliseconds that the text of each may wait for more. */
  interval(): number;
  /** Calls back once, at the beat that is next to an interval from now; the returned function prevents that. */
  rest(wake: () => void): () => void;
}

/** Milliseconds that text waits for more at least: below what an eye notices, far fewer messages than tokens. */
const shortestInterval = 40;
/** And at most: text that comes four times a second still flows. */
const longestInterval = 250;
/** Pieces of all answers together: each costs its worker, Redis and the API some tenths of a millisecond. */
const piecesPerSecond = 150;
/** Milliseconds between two beats. What goes out at the same one leaves the process as one packet. */
const beat = shortestInterval;

/** Few answers hand on a piece every 40 ms; the more they are, the longer is each piece instead. */
export function createDeltaPace(): DeltaPace {
  let writers = 0;
  const resting = new Map<() => void, number>();
  let isBeating = false;
  const interval = (): number =>
    Math.min(longestInterval, Math.max(shortestInterval, (writers * 1_000) / piecesPerSecond));
  const strike = (): void => {
    isBeating = false;
    const latest = performance.now() + beat / 2;
    for (const [wake, at] of [...resting]) {
      if (at <= latest) {
        resting.delete(wake);
        wake();
      }
    }
    waitForBeat();
  };
  const waitForBeat = (): void => {
    if (resting.size > 0 && !isBeating) {
      isBeating = true;
      setTimeout(strike, beat);
    }
  };
  return {
    enter: () => {
      let isIn = true;
      writers += 1;
      return () => {
        writers -= isIn ? 1 : 0;
        isIn = false;
      };
    },
    interval,
    rest: (wake) => {
      resting.set(wake, performance.now() + interval());
      waitForBeat();
      return () => void resting.delete(wake);
    },
  };
}

/** The first piece goes out at once; later ones as the pace has it, and at once behind a silence. */
export function createDeltaWriter(pace: DeltaPace, send: (offset: number, text: string) => void): DeltaWriter {
  const leave = pace.enter();
  let offset = 0;
  let waiting = '';
  let stopResting: (() => void) | null = null;

  const flush = (last = false): void => {
    // Half of a surrogate pair waits for its other half: alone it is no text.
    const length = !last && /[\uD800-\uDBFF]$/.test(waiting) ? waiting.length - 1 : waiting.length;
    if (length > 0) {
      send(offset, waiting.slice(0, length));
      offset += length;
      waiting = waiting.slice(length);
    }
  };
  const handOn = (): void => {
    stopResting = null;
    if (waiting !== '') {
      flush();
      stopResting = pace.rest(handOn);
    }
  };
  return {
    write: (text) => {
      waiting += text;
      if (stopResting === null) {
        handOn();
      }
    },
    end: () => {
      stopResting?.();
      leave();
      flush(true);
    },
  };
}
