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
  const { id, argumentsHash: hash } = question;
  return (
    <li className={question.dangerous ? 'dangerous' : ''}>
      <What question={question} />
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

function What({
  question: { kind, toolName, arguments: given, dangerous, task, plan },
}: {
  question: QuestionFragment;
}) {
  if (kind === 'PLAN') {
    return (
      <>
        <p>Your team has a plan.</p>
        <ol>
          {plan?.tasks.map(({ key, agentName, instruction }) => (
            <li key={key}>
              <strong>{agentName}</strong>: {instruction}
            </li>
          ))}
        </ol>
      </>
    );
  }
  return (
    <>
      <p>
        <strong>{task?.agent?.name ?? 'Your team'}</strong> wants to use <strong>{toolName}</strong>
        {dangerous ? <small> (may reach others)</small> : null}
      </p>
      <pre>{JSON.stringify(given, null, 2)}</pre>
    </>
  );
}

function timeOf(date: string): string {
  return new Date(date).toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit' });
}
