import { useState } from 'react';

/** Where the service is, and who asks. The token is kept by the page alone and is gone with it. */
export interface Account {
  url: string;
  token: string;
}

const local = 'http://127.0.0.1:4000/graphql';

export function SignIn({ client, onSignIn }: { client: string; onSignIn: (account: Account) => void }) {
  const [url, setUrl] = useState(local);
  const [token, setToken] = useState('');
  return (
    <main className="sign-in">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          onSignIn({ url: url.trim(), token: token.trim() });
        }}
      >
        <h1>Retinue</h1>
        <p>Your own team of agents, through {client}.</p>
        <label>
          Address of the service
          <input type="url" required value={url} onChange={(event) => setUrl(event.target.value)} />
        </label>
        <label>
          Token
          <input
            type="password"
            required
            autoComplete="off"
            value={token}
            onChange={(event) => setToken(event.target.value)}
          />
        </label>
        <p className="hint">
          For the service on this machine: <code>npm run --silent token -- --user alice</code>
        </p>
        <button type="submit">Sign in</button>
      </form>
    </main>
  );
}
