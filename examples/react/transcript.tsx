import { useEffect, useRef } from 'react';
import { Citations } from './citations.tsx';
import type { ShownMessage } from './conversation.ts';

/** The messages of a conversation; the newest words stay in sight. */
export function Transcript({ messages }: { messages: readonly ShownMessage[] }) {
  const end = useRef<HTMLDivElement>(null);
  const length = messages.reduce((sum, { text }) => sum + text.length, messages.length);
  useEffect(() => {
    if (length > 0) {
      end.current?.scrollIntoView({ block: 'end' });
    }
  }, [length]);
  return (
    <section className="transcript" aria-label="Messages">
      {messages.length === 0 ? <p className="hint">Choose who shall answer and write the first message.</p> : null}
      {messages.map((message) => (
        <Message key={message.id} message={message} />
      ))}
      <div ref={end} />
    </section>
  );
}

/** A screen reader is told of a message when it is whole, not of each piece. */
function Message({ message: { author, isOwn, text, isBeingWritten, citations } }: { message: ShownMessage }) {
  return (
    <article className={isOwn ? 'message own' : 'message'} aria-live="polite" aria-busy={isBeingWritten}>
      <h3>{author}</h3>
      <p className={isBeingWritten ? 'text written' : 'text'}>{text === '' ? '…' : text}</p>
      <Citations citations={citations} />
    </article>
  );
}
