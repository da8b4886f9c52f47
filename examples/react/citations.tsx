import type { PlaceFragment } from './generated/graphql.ts';

/** What an answer was drawn from. Nothing is shown where there is nothing to cite. */
export function Citations({ citations }: { citations: readonly PlaceFragment[] }) {
  return citations.length === 0 ? null : (
    <ul className="citations" aria-label="From memory">
      {citations.map(({ position, source, path, startLine, endLine }) => (
        <li key={position}>
          [{position}] {path}, lines {startLine}–{endLine} <small>({source})</small>
        </li>
      ))}
    </ul>
  );
}
