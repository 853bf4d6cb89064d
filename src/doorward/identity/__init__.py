"""Who somebody is: sessions, users, and the cookies that name them.

    address   e-mail addresses in the one form in which they are compared
    cookies   byte-exact parsing of ``Cookie`` and the names that are ours
    session   the session record as a value
    user      the user record as a value, and when its e-mail address counts

What does not belong here: how somebody signs in (authenticate), what they may do (policy).
"""
