import { type KeyboardEvent, useState } from 'react';

/** Where a message is written and sent, to one agent or, with null, to the whole team. `onSend` says whether it was sent: what was not stays in the field. */
export function Composer({
  agents,
  onSend,
}: {
  agents: readonly { id: string; name: string }[];
  onSend: (content: string, agentId: string | null) => Promise<boolean>;
}) {
  const [content, setContent] = useState('');
  const [agentId, setAgentId] = useState<string | null>(null);
  const [isSending, setSending] = useState(false);
  const send = async (): Promise<void> => {
    if (agents.length === 0 || content.trim() === '' || isSending) {
      return;
    }
    setSending(true);
    try {
      if (await onSend(content, agentId)) {
        setContent('');
      }
    } finally {
      setSending(false);
    }
  };
  const sendOnEnter = (event: KeyboardEvent): void => {
    if (event.key === 'Enter' && !event.shiftKey && !event.nativeEvent.isComposing) {
      event.preventDefault();
      void send();
    }
  };
  return (
    <form
      className="composer"
      onSubmit={(event) => {
        event.preventDefault();
        void send();
      }}
    >
      <label>
        To
        <select
          value={agentId ?? ''}
          onChange={(event) => setAgentId(event.target.value === '' ? null : event.target.value)}
        >
          <option value="">Whole team</option>
          {agents.map(({ id, name }) => (
            <option key={id} value={id}>
              {name}
            </option>
          ))}
        </select>
      </label>
      <label className="grow">
        Message
        <textarea
          rows={2}
          value={content}
          onChange={(event) => setContent(event.target.value)}
          onKeyDown={sendOnEnter}
        />
      </label>
      <button type="submit" disabled={isSending || agents.length === 0}>
        Send
      </button>
    </form>
  );
}
