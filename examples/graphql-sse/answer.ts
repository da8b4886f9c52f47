/** An answer on its way to an output that only grows: whatever comes twice is written once. */
export interface Answer {
  /** The next piece. One that does not continue what is known, because some were missed, waits for the whole. */
  add(offset: number, text: string): void;
  finish(text: string): void;
}

export function createAnswer(write: (text: string) => void): Answer {
  let known = '';
  let written = '';
  const show = (): void => {
    if (known.startsWith(written)) {
      write(known.slice(written.length));
      written = known;
    } else if (!written.startsWith(known)) {
      // Another attempt at the answer chose other words.
      write(`\n(again from the start)\n${known}`);
      written = known;
    }
  };
  return {
    add: (offset, text) => {
      if (offset === 0 || offset === known.length) {
        known = offset === 0 ? text : known + text;
        show();
      }
    },
    finish: (text) => {
      known = text;
      show();
      write('\n');
    },
  };
}
