import type { Delta, StoredEvent } from '../outbox.ts';

/** An answer while it is written, as far as this process has heard. */
export interface Answer extends Omit<Delta, 'offset'> {
  /** Place of the first known unit of the text: 0, unless its beginning was missed. */
  base: number;
  /** Changes whenever the text begins anew. */
  generation: number;
  /** Where the log stood when the text began, and the event that ended it. */
  began: number;
  ended: number | null;
  heardAt: number;
}

/** Pieces that wait for the ones before them. */
const heldPieces = 1_000;
/** Answers that have ended but are still held for readers who are a little behind. */
const heldEnded = 32;
/** Milliseconds that an answer is held after its end, and after its last piece when nobody tells of an end. */
const endedFor = 10_000;
const silentFor = 600_000;

/**
 * Texts that a user's agents are writing right now, put together from their pieces. Whoever reads a text so far and the
 * pieces that follow has the whole, whenever they came.
 */
export class AnswersInProgress {
  private readonly known = new Map<string, Answer>();
  /** Pieces that came while the texts before them are being asked for; null when nothing is. */
  private held: Delta[] | null = [];
  private generations = 0;

  [Symbol.iterator](): IterableIterator<Answer> {
    return this.known.values();
  }

  get size(): number {
    return this.known.size;
  }

  /**
   * Adds a piece. Log says where the log stands by now.
   * @returns gap when pieces before it are missing: it waits until `begin` was told of the texts so far
   */
  add(delta: Delta, log: number): 'added' | 'gap' | 'waits' {
    if (this.held !== null) {
      if (this.held.length < heldPieces) {
        this.held.push(delta);
      }
      return 'waits';
    }
    const answer = this.known.get(delta.messageId);
    const isMissing =
      delta.offset > 0 &&
      (answer === undefined || isLater(delta, answer) || (isSame(delta, answer) && delta.offset > endOf(answer)));
    if (isMissing) {
      this.held = [delta];
      return 'gap';
    }
    this.put(delta, log);
    return 'added';
  }

  /** Texts so far, as they were kept for newcomers; pieces that waited for them follow. */
  begin(drafts: readonly Delta[], log: number): void {
    const waiting = this.held ?? [];
    this.held = null;
    for (const delta of [...drafts, ...waiting]) {
      this.put(delta, log);
    }
  }

  /** Takes note of an event that ends answers. */
  end(event: StoredEvent, now: number): void {
    if (this.known.size === 0) {
      return;
    }
    const { type, data, sequence } = event;
    const endsTask = ['task_completed', 'task_failed', 'task_cancelled', 'task_skipped'].includes(type);
    for (const answer of this.known.values()) {
      const ends =
        (type === 'message_created' && data['messageId'] === answer.messageId) ||
        (endsTask && data['taskId'] === answer.taskId);
      if (ends && answer.ended === null) {
        answer.ended = sequence;
        answer.heardAt = now;
      }
    }
    const ended = [...this.known.values()].filter((answer) => answer.ended !== null);
    for (const answer of ended.slice(0, Math.max(0, ended.length - heldEnded))) {
      this.known.delete(answer.messageId);
    }
  }

  tidy(now: number): void {
    for (const answer of this.known.values()) {
      if (now - answer.heardAt > (answer.ended === null ? silentFor : endedFor)) {
        this.known.delete(answer.messageId);
      }
    }
  }

  private put(delta: Delta, log: number): void {
    const { offset, ...piece } = delta;
    const answer = this.known.get(delta.messageId);
    const heardAt = performance.now();
    if (answer === undefined || isLater(delta, answer)) {
      this.generations += 1;
      const begun = { base: offset, generation: this.generations, began: log, ended: null, heardAt };
      this.known.set(delta.messageId, { ...piece, ...begun });
      return;
    }
    if (!isSame(delta, answer) || answer.ended !== null) {
      return;
    }
    const end = endOf(answer);
    const pieceEnd = offset + piece.text.length;
    answer.heardAt = heardAt;
    if (offset < answer.base && pieceEnd >= end) {
      // Its beginning was found after all.
      this.generations += 1;
      Object.assign(answer, { base: offset, text: piece.text, generation: this.generations });
    } else if (offset > end) {
      // What is between is lost for good.
      Object.assign(answer, { base: offset, text: piece.text });
    } else if (offset >= answer.base && pieceEnd > end) {
      answer.text += piece.text.slice(end - offset);
    }
  }
}

/** Where the known part of an answer ends, in UTF-16 code units. */
export function endOf(answer: Answer): number {
  return answer.base + answer.text.length;
}

function isSame(delta: Delta, answer: Answer): boolean {
  return delta.attempt === answer.attempt && delta.step === answer.step;
}

function isLater(delta: Delta, answer: Answer): boolean {
  return delta.attempt > answer.attempt || (delta.attempt === answer.attempt && delta.step > answer.step);
}
