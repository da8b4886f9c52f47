/** Softens the lead of first places: the value of the paper (Cormack, Clarke, Büttcher: Reciprocal Rank Fusion, SIGIR 2009). */
const softening = 60;

export interface Ranked {
  id: string;
  /** Sum over the lists of 1 / (60 + rank): comparable within one answer only. */
  score: number;
  /** Place in each list, from 1; null where a list does not have it. */
  ranks: (number | null)[];
}

/** Joins ranked lists of ids, best first, into one: what several lists find stands before what one of them finds. */
export function joinByReciprocalRank(lists: readonly (readonly string[])[]): Ranked[] {
  const found = new Map<string, Ranked>();
  lists.forEach((list, listPlace) => {
    list.forEach((id, place) => {
      const entry = found.get(id) ?? { id, score: 0, ranks: lists.map(() => null) };
      if (entry.ranks[listPlace] === null) {
        entry.ranks[listPlace] = place + 1;
        entry.score += 1 / (softening + place + 1);
      }
      found.set(id, entry);
    });
  });
  return [...found.values()].sort((one, other) => other.score - one.score || (one.id < other.id ? -1 : 1));
}
