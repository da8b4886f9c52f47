import { useState } from 'react';
import type { DecideMutationVariables, QuestionFragment } from './generated/graphql.ts';

type Decide = (decision: DecideMutationVariables) => void;

/** What agents may only do with the user's consent. Nothing is shown while nobody asks. */
export function Questions({ questions, onDecide }: { questions: readonly QuestionFragment[]; onDecide: Decide }) {
  return (
    <section aria-label="Your decision" aria-live="polite">
      {questions.length === 0 ? null : <h2>Your decision</h2>}
      <ul className="questions">
        {questions.map((question) => (
          <Question key={question.id} question={question} onDecide={onDecide} />
        ))}
      </ul>
    </section>
  );
}

function Question({ question, onDecide }: { question: QuestionFragment; onDecide: Decide }) {
  const [remember, setRemember] = useState(false);
  const { id, kind, toolName, argumentsHash: hash } = question;
  const who = question.task?.agent?.name ?? 'Your team';
  return (
    <li className={question.dangerous ? 'dangerous' : ''}>
      <p>
        <strong>{who}</strong> {kind === 'PLAN' ? 'has a plan' : 'wants to use'} <strong>{toolName}</strong>
        {question.dangerous ? <small> (may reach others)</small> : null}
      </p>
      <pre>{JSON.stringify(question.arguments, null, 2)}</pre>
      <label className="check">
        <input type="checkbox" checked={remember} onChange={(event) => setRemember(event.target.checked)} />
        For the rest of the conversation
      </label>
      <p className="buttons">
        <button type="button" onClick={() => onDecide({ id, hash, decision: 'APPROVED', remember })}>
          Approve
        </button>
        <button type="button" className="quiet" onClick={() => onDecide({ id, hash, decision: 'REJECTED' })}>
          Decline
        </button>
      </p>
      <small>
        Counts as declined after <time dateTime={question.expiresAt}>{timeOf(question.expiresAt)}</time>
      </small>
    </li>
  );
}

function timeOf(date: string): string {
  return new Date(date).toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit' });
}
