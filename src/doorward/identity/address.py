"""E-mail addresses in the one form in which they are compared. Plain text only, so that policy can use it."""


def canonical_email(text: str) -> str | None:
    """The one form in which addresses are compared, or ``None`` when ``text`` is no plain address.

    ASCII lower case; exactly one ``@``; no quoted local part, no space or control character, no empty label and no
    trailing dot in the domain.
    """
    if not text.isascii() or text.count("@") != 1 or len(text) > 254:
        return None
    local, domain = text.lower().split("@")
    if not local or any(not "!" <= character <= "~" or character in '"(),:;<>[\\]' for character in text):
        return None
    if not all(domain.split(".")):
        return None
    return f"{local}@{domain}"
