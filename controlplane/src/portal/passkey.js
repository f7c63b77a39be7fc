// The portal's only script, for what HTML has no form for: asking an authenticator. It begins at the gateway, lets the
// browser ask, writes what came into the form, and sends that like any other. All else works without it.
'use strict';

(() => {
  const REFUSED = {
    stale: 'This sign-in took too long, or began elsewhere. Load the first page and start again.',
    not_signed_in: 'You are not signed in here any more. Load the page again and sign in.',
    not_fresh: 'First show that it is you, then try again.',
    not_added: 'There are as many passkeys as one account may have. Remove one first.',
    too_many: 'Too many wrong tries. Wait a moment.',
    busy: 'The gateway is busy. Wait a moment and try again.',
  };
  const FAILED = {
    NotAllowedError: 'No passkey came: it was cancelled, took too long, or this device has none for this page.',
    InvalidStateError: 'This device has a passkey of yours for this page already.',
    SecurityError: 'The browser does not show passkeys to this page.',
    NotSupportedError: 'This device cannot make a passkey that would do.',
  };

  const bytes = (text) =>
    Uint8Array.from(atob(text.replace(/-/g, '+').replace(/_/g, '/')), (letter) => letter.charCodeAt(0));
  const text = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)))
    .replace(/\+/g, '-').replace(/\//g, '_').replace(/=+$/, '');
  const descriptors = (list) => (list || []).map((one) => ({ ...one, id: bytes(one.id) }));

  async function begin(form) {
    const answer = await fetch(form.dataset.begin, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: form.dataset.question,
    });
    const said = await answer.json();
    if (said.say === 'passkey') return said;
    throw new Error(REFUSED[said.why] || 'The gateway does not offer this now.');
  }

  async function made(options) {
    const publicKey = {
      ...options,
      challenge: bytes(options.challenge),
      user: { ...options.user, id: bytes(options.user.id) },
      excludeCredentials: descriptors(options.excludeCredentials),
    };
    const made = await navigator.credentials.create({ publicKey });
    return told(made, {
      attestationObject: text(made.response.attestationObject),
      transports: made.response.getTransports ? made.response.getTransports() : [],
    });
  }

  async function shown(options) {
    const publicKey = {
      ...options,
      challenge: bytes(options.challenge),
      allowCredentials: descriptors(options.allowCredentials),
    };
    const shown = await navigator.credentials.get({ publicKey });
    const handle = shown.response.userHandle;
    return told(shown, {
      authenticatorData: text(shown.response.authenticatorData),
      signature: text(shown.response.signature),
      ...(handle && handle.byteLength ? { userHandle: text(handle) } : {}),
    });
  }

  function told(credential, response) {
    return JSON.stringify({
      id: text(credential.rawId),
      rawId: text(credential.rawId),
      type: credential.type,
      response: { clientDataJSON: text(credential.response.clientDataJSON), ...response },
      clientExtensionResults: {},
    });
  }

  async function ask(form) {
    const alert = form.querySelector('[data-trouble]');
    const button = form.querySelector('button');
    alert.hidden = true;
    button.disabled = true;
    try {
      const { attempt, options } = await begin(form);
      const asked = JSON.parse(options);
      const response = form.dataset.passkey === 'make' ? await made(asked) : await shown(asked);
      form.elements.attempt.value = attempt;
      form.elements.response.value = response;
      form.submit();
    } catch (error) {
      alert.setAttribute('role', 'alert');
      alert.hidden = false;
      alert.textContent = FAILED[error.name] || error.message;
      button.disabled = false;
      button.focus();
    }
  }

  for (const form of document.querySelectorAll('form[data-passkey]')) {
    const part = form.parentElement;
    const reveal = (name) => { part.querySelector(`[data-if=${name}]`).hidden = false; };
    if (form.dataset.at !== location.origin) {
      reveal('elsewhere');
    } else if (!window.PublicKeyCredential) {
      reveal('unable');
    } else {
      form.hidden = false;
      form.addEventListener('submit', (event) => {
        event.preventDefault();
        ask(form);
      });
    }
  }
})();
