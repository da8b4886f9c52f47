import { StrictMode, useMemo, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { Provider } from 'urql';
import { type Account, SignIn } from '../react/sign-in.tsx';
import '../react/style.css';
import { Chat } from './chat.tsx';
import { createClient } from './client.ts';

function App() {
  const [account, setAccount] = useState<Account | null>(null);
  const client = useMemo(() => (account === null ? null : createClient(account)), [account]);
  return client === null ? (
    <SignIn client="urql" onSignIn={setAccount} />
  ) : (
    <Provider value={client}>
      <Chat onSignOut={() => setAccount(null)} />
    </Provider>
  );
}

const root = document.getElementById('root');
if (root !== null) {
  createRoot(root).render(
    <StrictMode>
      <App />
    </StrictMode>,
  );
}
